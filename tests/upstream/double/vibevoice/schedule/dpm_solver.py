"""A schedule of so many timesteps, and a step that walks halfway to what the head predicts."""

from types import SimpleNamespace

import torch


class DPMSolverMultistepScheduler:
    def __init__(self, num_train_timesteps=1000, **config):
        self.config = SimpleNamespace(num_train_timesteps=num_train_timesteps, **config)
        self.num_inference_steps = None
        self.timesteps = torch.zeros(0)
        self._step_index = None

    @classmethod
    def from_config(cls, config, **overrides):
        return cls(**{**vars(config), **overrides})

    def set_timesteps(self, num_inference_steps=None, device=None, timesteps=None):
        # Like the real one, it never says no: with as many steps as it was trained on, neighbours coincide and divide
        # by zero.
        spread = torch.linspace(self.config.num_train_timesteps - 1, 0, num_inference_steps + 1)
        self.timesteps = spread.round().long()[:-1]
        self._gaps = (spread[:-1].round() - spread[1:].round()).clamp(max=1.0)
        self.num_inference_steps = num_inference_steps
        self._step_index = None

    def step(self, model_output, timestep, sample, generator=None, variance_noise=None, return_dict=True):
        self._step_index = 0 if self._step_index is None else self._step_index + 1
        gap = self._gaps[self._step_index]
        previous = sample + 0.5 * (model_output - sample) * (gap / gap)
        return SimpleNamespace(prev_sample=previous) if return_dict else (previous,)
