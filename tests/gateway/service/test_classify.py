import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.catalog import TextModel
from gateway.contract import CLASSIFIER, CROSS_ENCODER
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.service.classify import Classification, Input, classify
from gateway.text.tokenizer import TextTokenizer, Truncate
from gateway.triton import Output
from tests.gateway.service.recording import RecordingTriton, caller
