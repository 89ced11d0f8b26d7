"""Layers whose parameters have PyTorch's names, shapes and layouts: a state_dict goes both ways as it is.

Layers that draw weights take the keyword `rng`, a numpy.random.Generator, and the keyword `dtype`, float32 by default.
"""

from tinygen.nn import init
from tinygen.nn.activation import ELU, Dropout, LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Softplus, Tanh
from tinygen.nn.convolution import AvgPool2d, Conv2d, ConvTranspose2d, Flatten, MaxPool2d, Upsample
from tinygen.nn.linear import Dense, Embedding
from tinygen.nn.module import Module, Parameter, Sequential, load, save
from tinygen.nn.normalization import BatchNorm1d, BatchNorm2d, InstanceNorm2d
from tinygen.nn.recurrent import LSTM, LSTMCell
from tinygen.nn.serialize import load_arrays, save_arrays

__all__ = [
    "ELU", "LSTM", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dense", "Dropout", "Embedding",
    "Flatten", "InstanceNorm2d", "LSTMCell", "LeakyReLU", "LogSoftmax", "MaxPool2d", "Module", "Parameter", "ReLU",
    "Sequential", "Sigmoid", "Softmax", "Softplus", "Tanh", "Upsample", "init", "load", "load_arrays", "save", "save_arrays",
]  # fmt: skip
