"""Weights laid out for decoding give what they give as they are, and follow the weights when these change."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from bang.network.packed import MOST_ROWS, PackedProduct, lay_by_columns


@pytest.mark.parametrize("shape", [(1, 32), (1, 9, 32), (4, 5, 32), (MOST_ROWS + 1, 32), (0, 32)])
def test_the_product_is_the_usual_one(shape):
    x, weight = torch.randn(shape), torch.randn(100, 32)
    with torch.no_grad():
        torch.testing.assert_close(PackedProduct()(x, weight), F.linear(x, weight), atol=1e-5, rtol=0)


def test_the_copy_follows_the_weight():
    product, x, weight = PackedProduct(), torch.randn(3, 8), torch.randn(20, 8)
    with torch.no_grad():
        before = product(x, weight)
        weight.mul_(2)
        torch.testing.assert_close(product(x, weight), 2 * before)
        other = weight.clone()
        torch.testing.assert_close(product(x, other), 2 * before)
        other.data.mul_(2)  # as optimizers do, whom the model's train() comes before
        product.forget()
        torch.testing.assert_close(product(x, other), 4 * before)


def test_copies_of_a_product_have_no_copy_of_the_weight():
    product, x, weight = PackedProduct(), torch.randn(3, 8), torch.randn(20, 8)
    with torch.no_grad():
        expected = product(x, weight)
        for same in (copy.deepcopy(product), pickle.loads(pickle.dumps(product))):
            torch.testing.assert_close(same(x, weight), expected)


def test_gradients_and_other_precisions_go_the_usual_way():
    x, weight = torch.randn(3, 8), torch.randn(20, 8, requires_grad=True)
    PackedProduct()(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(20, 8))
    with torch.no_grad():
        assert PackedProduct()(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16


def test_training_on_drops_the_copy(make_model):
    model = make_model()
    weight, features = model.decoder.output_weight, torch.randn(2, 3, model.decoder.output_weight.size(1))
    with torch.no_grad():
        before = model.decoder.output_layer(features)
        model.train()
        weight.data.mul_(2)
        model.eval()
        torch.testing.assert_close(model.decoder.output_layer(features), 2 * before)


def test_a_model_laid_out_by_columns_is_the_same_model(golden_model, pairs):
    model = golden_model("mixed")
    laid_out = copy.deepcopy(model)
    laid_out.lay_out()
    weight = laid_out.decoder.layers[0].fc1.weight
    assert not weight.is_contiguous() and weight.t().is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), laid_out.state_dict().values()))
    batch = pairs("test", 5)[0]["net_input"]
    with torch.no_grad():
        both = [one(batch["src_tokens"], batch["src_lengths"], batch["prev_output_tokens"])[0] for one in (model, laid_out)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=0)
    half = copy.deepcopy(model).bfloat16()
    lay_by_columns(half.decoder.layers)
    assert half.decoder.layers[0].fc1.weight.is_contiguous()
