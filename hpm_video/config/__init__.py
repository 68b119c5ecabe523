"""Every key of a run with its default and unit, and the checks between keys: pretraining and fine-tuning.

`schema.py` reads values and refuses wrong ones; `geometry.py` holds the numbers that follow from them.
"""

from hpm_video.config.data_sections import AugmentConfig as AugmentConfig
from hpm_video.config.data_sections import DataConfig as DataConfig
from hpm_video.config.data_sections import ImagesConfig as ImagesConfig
from hpm_video.config.load import load_config as load_config
from hpm_video.config.load import load_finetune_config as load_finetune_config
from hpm_video.config.load import to_yaml as to_yaml
from hpm_video.config.model_sections import ClassifierConfig as ClassifierConfig
from hpm_video.config.model_sections import EncoderConfig as EncoderConfig
from hpm_video.config.model_sections import MaskConfig as MaskConfig
from hpm_video.config.model_sections import ModelConfig as ModelConfig
from hpm_video.config.model_sections import ObjectiveConfig as ObjectiveConfig
from hpm_video.config.model_sections import TeacherConfig as TeacherConfig
from hpm_video.config.run_sections import EngineConfig as EngineConfig
from hpm_video.config.run_sections import FinetuneConfig as FinetuneConfig
from hpm_video.config.run_sections import FinetuneOptimConfig as FinetuneOptimConfig
from hpm_video.config.run_sections import FinetuneTrainConfig as FinetuneTrainConfig
from hpm_video.config.run_sections import InitConfig as InitConfig
from hpm_video.config.run_sections import OptimConfig as OptimConfig
from hpm_video.config.run_sections import PretrainConfig as PretrainConfig
from hpm_video.config.run_sections import PretrainTrainConfig as PretrainTrainConfig
from hpm_video.config.run_sections import RunConfig as RunConfig
from hpm_video.config.run_sections import TestConfig as TestConfig
from hpm_video.config.run_sections import TrainConfig as TrainConfig
