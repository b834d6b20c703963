"""Text to token ids, four characters a token, beside the prompt's length."""

import torch


class VibeVoiceStreamingProcessor:
    def __init__(self, tokenizer=None):
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        return cls()

    def process_input_with_cached_prompt(
        self,
        text=None,
        cached_prompt=None,
        padding=True,
        truncation=False,
        max_length=None,
        return_tensors=None,
        return_attention_mask=True,
        **kwargs,
    ):
        prompt = cached_prompt["tts_lm"].shape[1]
        tokens = -(-len(text.strip() + "\n") // 4)
        return {
            "tts_lm_input_ids": torch.zeros(1, prompt, dtype=torch.long),
            "tts_text_ids": torch.ones(1, tokens, dtype=torch.long),
        }
