"""A loaded model in the precision that it is to translate with on CPU: layers replaced, once.

The rest of the model does not notice what stands in the place of its linear layers (`packed`).
"""

from collections.abc import Callable

import torch
from torch import nn

from nmt import errors
from nmt.models import cnn, fused, packed, products, rnn, seq2seq

# Layers with fewer weights stay float32 as they are: finding scales and rounding costs what the product
# gains, and so does asking oneDNN for a product of a few rows.
MIN_WEIGHTS = 2**16


@torch.no_grad()
def prepare(model: seq2seq.Seq2Seq, precision: str) -> None:
    """Lays the weights of a model out for search and scoring on CPU; it cannot be trained any more.

    Embeddings stay float32: a row that is looked up costs no product. A tied output layer gets
    weights of its own. Families from plugins take part with what they build by `layers.linear`.

    Args:
        model: in evaluation mode, weights in place, float32, on CPU.
        precision: `int8`, `bf16` (where it cannot be packed, autocast does all), `fp32` (where oneDNN is
            the faster one), or another, for which nothing is to be done.

    Raises:
        errors.UsageError: this torch has no products in int8.
    """
    if precision == "int8":
        if not packed.has_int8():
            raise errors.UsageError(
                "precision: int8 needs a torch with oneDNN, which this one lacks. "
                "Take fp32 or bf16, or install the usual torch for this processor."
            )
        _replace(model, _int8_of)
        model.register_module("output", packed.int8_linear(model.output.weight, None))
    elif precision == "bf16" and packed.has_packed_bf16():
        _replace(model, _bf16_of)
        output = packed.PackedLinear(model.output.weight, None, torch.bfloat16)
        model.register_module("output", output)
    elif precision == "fp32" and products.onednn_leads_in_fp32():
        _replace(model, _fp32_of)
        if (packed_output := _fp32_of(model.output)) is not None:
            model.register_module("output", packed_output)


def _replace(module: nn.Module, replacement_of: Callable[[nn.Module], nn.Module | None]) -> None:
    """Puts replacements in the place of the parts of a module, where there are any."""
    for name, part in module.named_children():
        replacement = replacement_of(part)
        if replacement is None:
            _replace(part, replacement_of)
        else:
            setattr(module, name, replacement)


def _int8_of(module: nn.Module) -> nn.Module | None:
    if isinstance(module, rnn.RnnEncoder):
        # A kernel runs a layer over all positions at once; its weights never leave it.
        return module
    if isinstance(module, rnn.Cell):
        return Int8Cell(module)
    if isinstance(module, cnn.WeightNormLinear):
        make = packed.int8_linear if module.direction.numel() >= MIN_WEIGHTS else packed.PlainLinear
        return make(module.folded(), module.bias)
    if type(module) is fused.Linear and module.weight.numel() >= MIN_WEIGHTS:
        return packed.int8_linear(module.weight, module.bias)
    return None


def _bf16_of(module: nn.Module) -> nn.Module | None:
    if isinstance(module, cnn.WeightNormLinear):
        return packed.PackedLinear(module.folded(), module.bias, torch.bfloat16)
    if type(module) is fused.Linear:
        return packed.PackedLinear(module.weight, module.bias, torch.bfloat16)
    return None


def _fp32_of(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.Linear) and module.weight.numel() >= MIN_WEIGHTS:
        return packed.PackedLinear(module.weight, module.bias, torch.float32)
    return None


class Int8Cell(nn.Module):
    """A recurrent layer of the decoder whose two products are in int8; gates stay float32.

    Keeps what `rnn.Cell` promises. Input and state have scales of their own, since embeddings are
    many times smaller than states.
    """

    def __init__(self, cell: rnn.Cell) -> None:
        super().__init__()
        self.is_lstm = cell.is_lstm
        w_in, w_hidden, b_in, b_hidden = cell.sequence.parameters()
        self.input = packed.int8_linear(w_in, b_in)
        self.hidden = packed.int8_linear(w_hidden, b_hidden)

    def run(
        self, inputs_BTX: torch.Tensor, first: tuple[torch.Tensor, ...] | None = None
    ) -> torch.Tensor:
        """Returns outputs [B, T, D]; see `rnn.Cell.run`."""
        assert first is not None, "a decoder starts from the memory"
        outputs = []
        for inputs_BX in inputs_BTX.unbind(1):
            first = self.step(inputs_BX, first)
            outputs.append(first[0])
        return torch.stack(outputs, dim=1)

    def step(
        self, inputs_NX: torch.Tensor, before: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...]:
        """Returns the state after one input; see `rnn.Cell.step`."""
        own_NG, back_NG = self.input(inputs_NX), self.hidden(before[0])
        if self.is_lstm:
            i_ND, f_ND, g_ND, o_ND = own_NG.add_(back_NG).chunk(4, dim=1)
            kept_ND = torch.sigmoid(f_ND) * before[1]
            cell_ND = kept_ND.addcmul_(torch.sigmoid(i_ND), torch.tanh(g_ND))
            return torch.sigmoid(o_ND) * torch.tanh(cell_ND), cell_ND
        r_ND, z_ND, n_ND = own_NG.chunk(3, dim=1)
        r_back_ND, z_back_ND, n_back_ND = back_NG.chunk(3, dim=1)
        new_ND = torch.tanh(n_ND + torch.sigmoid(r_ND + r_back_ND) * n_back_ND)
        return (torch.lerp(new_ND, before[0], torch.sigmoid(z_ND + z_back_ND)),)
