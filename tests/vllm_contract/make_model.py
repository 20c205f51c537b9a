"""Makes a tiny Llama with random weights and a byte-level tokenizer: `python make_model.py FOLDER`, with the Python of vLLM's environment.

What it writes makes no sense, which no contract asks for; that it is two layers small makes it start and answer within seconds on a CPU, and
no hub is needed. Heads of length 64, which vLLM's CPU kernels know.
"""

import sys
from pathlib import Path

import torch  # type: ignore[import-not-found]  # it is in vLLM's environment, not in ours
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # type: ignore[import-not-found]  # it is in vLLM's environment, not in ours
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # type: ignore[import-not-found]  # it is in vLLM's environment, not in ours

CHAT = (
    "{% for message in messages %}<|{{ message.role if message.role in ('system', 'user') else 'assistant' }}|>{{ message.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def main() -> None:
    """Write the model."""
    folder = Path(sys.argv[1])
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    words.train_from_iterator(["the lamp is lit in the evening and put out in the morning. "] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=64, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
