"""The codec over whole sequences, differentiable: the same modules and weights as the streaming engine, no state.

What the engine keeps from call to call is here the padding of one long call, so both give the same numbers: latents,
codes and audio of a frame a call (`Transformer.forward`: the two positions of a frame enter the ring together).
Shapes: B rows, C channels, T positions, n frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.model.attention import rotate
from engine.model.mimi import POSITIONS, Mimi
from engine.model.seanet import CausalConv, CausalConvTranspose, ResidualBlock
from engine.model.transformer import Layer, Transformer, rotation


class OfflineCodec:
    """A Mimi's two networks, rows fresh at the first sample. A subclass may look at what each convolution gives."""

    def __init__(self, mimi: Mimi) -> None:
        self.mimi = mimi

    def latent(self, audio: Tensor) -> Tensor:
        """Audio [B, 1, 1920 * n] -> what the quantiser is given, [B, C, n]."""
        x = self._seanet(self.mimi.encoder.model, audio)
        x = attend_frames(self.mimi.encoder_transformer.transformer, x.transpose(1, 2)).transpose(1, 2)
        layer = self.mimi.downsample.conv
        # A row's first position stands for its past; every other convolution starts on zeros.
        return self.conv(layer, F.pad(x, (layer.carry_shape[1], 0), mode="replicate"), padded=True)

    def audio(self, latent: Tensor) -> Tensor:
        """The quantiser's latent [B, C, n] -> audio [B, 1, 1920 * n]."""
        x = self.spread(self.mimi.upsample.convtr, latent)
        x = attend_frames(self.mimi.decoder_transformer.transformer, x.transpose(1, 2)).transpose(1, 2)
        return self._seanet(self.mimi.decoder.model, x)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio [B, 1, 1920 * n] -> codes [B, codebooks, n] int64."""
        return self.mimi.quantizer.encode(self.latent(audio))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, k, n] -> audio [B, 1, 1920 * n]."""
        return self.audio(self.mimi.quantizer.decode(codes))

    def conv(self, layer: CausalConv, x: Tensor, padded: bool = False) -> Tensor:
        """One convolution of a row's whole past; `padded` where it is there already."""
        x = x if padded else F.pad(x, (layer.carry_shape[1], 0))
        return F.conv1d(_folded(x, layer.stride), _folded(layer.weight, layer.stride), layer.conv.conv.bias)

    def spread(self, layer: CausalConvTranspose, x: Tensor) -> Tensor:
        """One transposed convolution; what reaches beyond the last position is cut.

        As a convolution of step one over a position and the one before, for `_folded`'s reason; one of each channel by
        itself comes out right as it is.
        """
        bias, stride = layer.convtr.convtr.bias, layer.stride
        if layer.groups > 1:
            return F.conv_transpose1d(x, layer.weight, bias, stride, groups=layer.groups)[:, :, :-stride]
        now, late = (
            layer.weight.view(*layer.weight.shape[:2], 2, stride).permute(2, 1, 3, 0).flatten(1, 2)
        )  # [outputs * stride, inputs]
        y = F.conv1d(
            F.pad(x, (1, 0)), torch.stack((late, now), 2), None if bias is None else bias.repeat_interleave(stride)
        )
        return y.view(len(y), -1, stride, y.shape[2]).transpose(2, 3).flatten(2)

    def _seanet(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, ResidualBlock):
                x = x + self._seanet(layer.block, x)
            elif isinstance(layer, CausalConv):
                x = self.conv(layer, x)
            elif isinstance(layer, CausalConvTranspose):
                x = self.spread(layer, x)
            else:
                x = layer(x)
        return x


def _folded(x: Tensor, stride: int) -> Tensor:
    """[B, C, T * stride] -> [B, C * stride, T]: what a stride steps over becomes channels, and the step one.

    Strided as they are, convolutions of few channels come out wrong in bfloat16 on some processors: of 16 channels by a
    stride of 4, torch 2.13's for AMX are noise, in the encoder's values and in the decoder's gradients.
    """
    return x if stride == 1 else x.reshape(*x.shape[:2], -1, stride).transpose(2, 3).flatten(1, 2)


def attend_frames(transformer: Transformer, x: Tensor) -> Tensor:
    """A stack over [B, T, dim] as if two positions came a call: both are in the ring before either is answered."""
    config, length = transformer.config, x.shape[1]
    turn = rotation(config, torch.arange(length, device=x.device)[None])
    visible = None if length <= config.context else _visible(length, config.context, x.device)
    for layer in transformer.layers:
        assert isinstance(layer, Layer)
        attention = layer.self_attn
        projected = F.linear(layer.norm1(x), attention.in_proj_weight).view(*x.shape[:2], 3, attention.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # [B, H, T, h] each
        query, key = rotate(query, turn), rotate(key, turn)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, is_causal=visible is None)
        x = x + layer.layer_scale_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))
        x = x + layer.layer_scale_2(layer.linear2(F.gelu(layer.linear1(layer.norm2(x)))))
    return x


def _visible(length: int, context: int, device: torch.device) -> Tensor:
    """Which keys each query sees, [T, T]: the earlier query of a frame has lost one more."""
    position = torch.arange(length, device=device)
    newest = position // POSITIONS * POSITIONS + POSITIONS - 1
    return (position <= position[:, None]) & (position > newest[:, None] - context)
