"""The generation loop: a window of text, a window of speech, until the end of speech, the longest length or a stop."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import torch

from vibevoice.modular.modeling_vibevoice_streaming import VibeVoiceStreamingModel
from vibevoice.modular.modular_vibevoice_tokenizer import VibeVoiceTokenizerStreamingCache

TTS_TEXT_WINDOW_SIZE = 5
TTS_SPEECH_WINDOW_SIZE = 6
LATENT = 16
LONGEST = 256  # tokens of text and speech together, the prompt's 148 included
FRAME_SECONDS = float(os.environ.get("DOUBLE_FRAME_SECONDS", "0.002"))


class VibeVoiceStreamingForConditionalGenerationInference:
    def __init__(self, config=None):
        self.config = config or SimpleNamespace(_name_or_path="")
        self.model = VibeVoiceStreamingModel()
        self.device = torch.device("cpu")
        self.ddpm_inference_steps = 20

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        if not Path(pretrained_model_name_or_path).is_dir():
            raise OSError(f"{pretrained_model_name_or_path} is no folder of weights")
        time.sleep(0.02)  # reading weights takes its time
        return cls(SimpleNamespace(_name_or_path=str(pretrained_model_name_or_path)))

    def eval(self):
        return self

    def set_ddpm_inference_steps(self, num_steps=None):
        self.ddpm_inference_steps = num_steps or 20

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        return {"input_ids": input_ids}

    def _update_model_kwargs_for_generation(self, outputs, model_kwargs, is_encoder_decoder=False, num_new_tokens=1):
        return model_kwargs

    def forward_lm(self, input_ids=None, **kwargs):
        return SimpleNamespace(last_hidden_state=torch.zeros(1, input_ids.shape[-1], LATENT))

    def forward_tts_lm(self, input_ids=None, lm_last_hidden_state=None, tts_text_masks=None, **kwargs):
        return SimpleNamespace(last_hidden_state=lm_last_hidden_state.reshape(1, -1, LATENT)[:, -1:] * 0.9 + 0.1)

    @torch.no_grad()
    def generate(
        self,
        inputs=None,
        generation_config=None,
        audio_streamer=None,
        tts_text_ids=None,
        return_speech=True,
        cfg_scale=1.0,
        stop_check_fn=None,
        **kwargs,
    ):
        prompt = kwargs["all_prefilled_outputs"]
        hidden, negative = prompt["tts_lm"][:, -1:], prompt["neg_lm"][:, -1:]
        read, made, finished, window = 0, 0, False, 0
        spoken = []
        cut_off = torch.zeros(1, dtype=torch.bool)
        length = prompt["tts_lm"].shape[1]
        which = torch.LongTensor([0])
        cache = VibeVoiceTokenizerStreamingCache()
        while not finished:
            if stop_check_fn is not None and stop_check_fn():
                audio_streamer.end()
                break
            text = tts_text_ids[:, window * TTS_TEXT_WINDOW_SIZE : (window + 1) * TTS_TEXT_WINDOW_SIZE]
            window += 1
            if text.shape[1]:
                read += text.shape[1]
                if length + read + made > LONGEST:
                    cut_off[:] = True
                    break
                heard = self.forward_lm(**self.prepare_inputs_for_generation(text), return_dict=True)
                hidden = self._pass(text, torch.ones(1, 1), heard.last_hidden_state)
            for _ in range(TTS_SPEECH_WINDOW_SIZE):
                latent = self.sample_speech_tokens(
                    hidden[which, -1], negative[which, -1], cfg_scale=cfg_scale
                ).unsqueeze(1)
                audio = self.model.acoustic_tokenizer.decode(
                    latent, cache=cache, sample_indices=which, use_cache=True, debug=False
                )
                if not finished:
                    spoken.append(audio)
                if audio_streamer is not None:
                    audio_streamer.put(audio, which)
                embedded = self.model.acoustic_connector(latent)
                made += 1
                if length + read + made > LONGEST:
                    break
                speech = torch.zeros(1, 1)
                hidden = self._pass(text, speech, embedded)
                negative = self._pass(text, speech, embedded)
                if made > 1.25 * read + 0.7 and not bool(torch.isnan(hidden).any()):
                    finished = True
                    if audio_streamer is not None:
                        audio_streamer.end(which)
            if not finished and length + read + made > LONGEST:
                cut_off[:] = True
                break
        if audio_streamer is not None:
            audio_streamer.end()
        speech = [torch.cat(spoken, dim=-1)] if spoken else [None]
        return SimpleNamespace(speech_outputs=speech if return_speech else None, reach_max_step_sample=cut_off)

    def _pass(self, text, kind, states):
        inputs = self.prepare_inputs_for_generation(text)
        outputs = self.forward_tts_lm(**inputs, tts_text_masks=kind, lm_last_hidden_state=states)
        self._update_model_kwargs_for_generation(outputs, {})
        return outputs.last_hidden_state

    @torch.no_grad()
    def sample_speech_tokens(self, condition, neg_condition, cfg_scale=3.0):
        time.sleep(FRAME_SECONDS)
        self.model.noise_scheduler.set_timesteps(self.ddpm_inference_steps)
        both = torch.cat([condition, neg_condition])
        speech = torch.randn(2, LATENT)
        for moment in self.model.noise_scheduler.timesteps:
            predicted = self.model.prediction_head(speech, moment.repeat(2), condition=both)
            wanted, unwanted = predicted.chunk(2)
            mixed = unwanted + cfg_scale * (wanted - unwanted)
            speech = self.model.noise_scheduler.step(torch.cat([mixed, mixed]), moment, speech).prev_sample
        return speech[:1]
