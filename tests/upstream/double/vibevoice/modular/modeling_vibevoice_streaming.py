"""The parts that the generation loop calls."""

import torch

from vibevoice.modular.modular_vibevoice_tokenizer import VibeVoiceAcousticTokenizerModel
from vibevoice.schedule.dpm_solver import DPMSolverMultistepScheduler


class SpeechConnector(torch.nn.Module):
    def forward(self, features, **kwargs):
        return features * 0.5


class DiffusionHead(torch.nn.Module):
    device = torch.device("cpu")

    def forward(self, noisy_images, timesteps, condition):
        return 0.5 * noisy_images + 0.1 * condition


class VibeVoiceStreamingModel:
    def __init__(self):
        self.noise_scheduler = DPMSolverMultistepScheduler(num_train_timesteps=1000)
        self.acoustic_tokenizer = VibeVoiceAcousticTokenizerModel()
        self.acoustic_connector = SpeechConnector()
        self.prediction_head = DiffusionHead()
