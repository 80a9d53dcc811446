"""Heads: sizes of the reference, unit outputs, and a jigsaw head that permutes within an image only."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pretrain.model.heads import JigsawHead, ProjectionHead


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_the_reference_s():
    assert count(ProjectionHead("mlp", 2048, 128)) == 4_458_624  # specification 1.3
    assert count(ProjectionHead("linear", 2048, 128)) == 2048 * 128 + 128
    assert count(JigsawHead("mlp", 2048, 128)) == 4_458_624 + 147_584  # own MLP + fc2


def test_embeddings_have_unit_norm():
    features = torch.randn(18, 32)
    torch.testing.assert_close(ProjectionHead("mlp", 32, 8)(features).norm(dim=1), torch.ones(18))
    order = torch.arange(9).repeat(2, 1)
    torch.testing.assert_close(JigsawHead("mlp", 32, 8)(features, permutation=order).norm(dim=1), torch.ones(2))


def test_jigsaw_head_equals_a_loop_over_images_and_patches():
    torch.manual_seed(0)
    head = JigsawHead("mlp", 16, 4)
    features = torch.randn(3 * 9, 16)
    permutation = torch.stack([torch.randperm(9) for _ in range(3)])
    rows = []
    for image in range(3):
        patches = [head.patch_layers(features[image * 9 + int(p)]) for p in permutation[image]]
        rows.append(F.normalize(head.mix(torch.cat(patches)), dim=0))
    torch.testing.assert_close(head(features, permutation=permutation), torch.stack(rows))
    identity = torch.arange(9).repeat(3, 1)
    assert not torch.allclose(head(features, permutation=identity), torch.stack(rows))  # control: order matters


def test_mlp_bn_has_no_common_direction_while_mlp_is_a_narrow_cone():
    torch.manual_seed(0)
    features = torch.randn(64, 512).relu() + 2  # what ReLU and pooling leave: a large common mean

    def cosine(kind):
        embeddings = ProjectionHead(kind, 512, 128)(features)
        return (embeddings @ embeddings.T)[~torch.eye(64, dtype=torch.bool)].mean().item()

    assert cosine("mlp") > 0.8
    assert abs(cosine("mlp_bn")) < 0.05
    order = torch.arange(9).repeat(7, 1)
    patches = JigsawHead("mlp_bn", 512, 128)(features[:63], permutation=order)
    assert patches.mean(dim=0).norm() < 0.05


def test_the_paper_s_heads_have_no_batchnorm():
    for kind in ("linear", "mlp"):
        for head in (ProjectionHead(kind, 32, 8), JigsawHead(kind, 32, 8)):
            assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in head.modules())
