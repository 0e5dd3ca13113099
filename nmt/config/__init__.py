"""The configuration: schema, loading, reference; never imports torch."""
