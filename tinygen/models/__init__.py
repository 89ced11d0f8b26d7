"""The registry of models: name, where its class is, a line about it, its paper. Classes are imported when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from tinygen.models.recipe import Recipe, RecipeError, closest

if TYPE_CHECKING:
    from tinygen.models.base import Model

__all__ = ["MODELS", "Entry", "Recipe", "RecipeError", "model_class"]


class Entry(NamedTuple):
    """One model of the registry; `location` is "module:class" inside this package."""

    location: str
    description: str
    paper: str


MODELS = {
    "independent": Entry("independent:Independent", "A coin for every pixel, none of which knows of another", "-"),
    "markov": Entry("markov:Markov", "Each pixel knows the one visited before it: two coins a pixel", "Markov 1913"),
    "full-joint": Entry("full_joint:FullJoint", "One die with a side for every image: 2^n - 1 numbers", "-"),
    "chain-rule": Entry(
        "chain_rule:ChainRule", "A coin for all values of all pixels before, in any order: 2^n - 1 numbers", "-"
    ),
    "fvsbn": Entry(
        "fvsbn:FVSBN",
        "Fully visible sigmoid belief network: logistic regression of each pixel on those before it",
        "Frey 1998",
    ),
    "made": Entry(
        "made:MADE",
        "Masked autoencoder: all conditionals from one pass of a network whose masks follow an order of the pixels",
        "Germain et al. 2015",
    ),
    "nade": Entry(
        "nade:NADE",
        "Neural autoregressive distribution estimator: p(x) exactly, one pixel after the other, weights tied",
        "Larochelle and Murray 2011",
    ),
    "rnade": Entry(
        "rnade:RNADE",
        "NADE for real numbers: a density as a product of mixtures of Gaussians",
        "Uria, Murray, Larochelle 2013",
    ),
    "eonade": Entry(
        "eonade:EoNADE",
        "One deep NADE for every order of the pixels, and the exact likelihood of an ensemble of orders",
        "Uria, Murray, Larochelle 2014",
    ),
    "pixelcnn": Entry(
        "pixelcnn:PixelCNN",
        "Masked convolutions: p(x) exactly, each pixel from a neighbourhood above and to its left",
        "van den Oord et al. 2016",
    ),
    "row-lstm": Entry(
        "row_lstm:RowLSTM",
        "PixelRNN whose LSTM walks over images row by row: p(x) exactly, each pixel from a triangle above it",
        "van den Oord et al. 2016",
    ),
    "diagonal-bilstm": Entry(
        "diagonal_bilstm:DiagonalBiLSTM",
        "PixelRNN whose LSTMs sweep over images along both diagonals: p(x) exactly, each pixel from all before it",
        "van den Oord et al. 2016",
    ),
    "vae": Entry(
        "vae:VAE",
        "Variational autoencoder: a latent code for each example, and a bound on p(x), by importance weights a tighter one",
        "Kingma and Welling 2014",
    ),
    "aae": Entry(
        "aae:AAE",
        "Adversarial autoencoder: a discriminator makes the codes follow any law that one can draw from",
        "Makhzani et al. 2015",
    ),
    "gan": Entry(
        "gan:GAN",
        "Generative adversarial nets: a generator and a discriminator, dense; on the line and the plane beside the optimal one",
        "Goodfellow et al. 2014",
    ),
    "dcgan": Entry(
        "dcgan:DCGAN",
        "Deep convolutional GAN: two networks without pooling, batch norm in both, that play stably",
        "Radford, Metz, Chintala 2016",
    ),
    "infogan": Entry(
        "infogan:InfoGAN",
        "A GAN whose codes, a category and two numbers, can be read off what it draws, and so come to mean something",
        "Chen et al. 2016",
    ),
    "text2image": Entry(
        "text2image:Text2Image",
        "Draws what a caption says: a recurrent text encoder, and a discriminator that matches images with texts",
        "Reed et al. 2016",
    ),
    "cyclegan": Entry(
        "cyclegan:CycleGAN",
        "Translation between two kinds of images and back, learnt without a single pair",
        "Zhu, Park, Isola, Efros 2017",
    ),
}


def model_class(name: str) -> type[Model]:
    """The class of the model `name`. Raises RecipeError, with the names that exist, for an unknown one."""
    if name not in MODELS:
        raise RecipeError(f"no model {name!r}: {closest(name, MODELS)}")
    module, _, attribute = MODELS[name].location.partition(":")
    return getattr(importlib.import_module(f".{module}", __name__), attribute)
