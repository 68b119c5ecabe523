"""Long films: an index kept once, then only what a clip needs is read, and the frames are those of decoding from the start."""

import os

import numpy as np
import pytest
from test_same_frames import KINDS, coded, decode_forward, noise, write  # noqa: F401

from hpm_video.data.readers import index as indices
from hpm_video.data.readers import pyav
from hpm_video.data.readers.packets import Packets
from hpm_video.data.readers.read import read_frames
