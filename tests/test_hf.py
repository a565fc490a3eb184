"""BANG in Hugging Face's transformers: Auto classes, `generate`, training and saving give what bang itself gives."""

import copy
import json
import runpy
import shutil
from importlib import metadata

import pytest
import torch
from conftest import GOLDEN, ROOT, SPECIAL, TEXTS, VOCAB_SMALL, debian
from safetensors.torch import load_file, save_file
from support.pages import DOCS, blocks
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, EncoderDecoderCache, GenerationConfig

import bang.hf
from bang import Bang, visibility
from bang.__main__ import main
from bang.errors import UserError
from bang.hf import BangConfig, BangForConditionalGeneration, generation
from bang.hf import folder as hf_folder
from bang.hf.configuration import generation_config
from bang.hf.folder import to_transformers
from bang.hf.tokenizer import build_tokenizer
from bang.inference.trained_model import read_checkpoint, read_folder
from bang.network.attention import NgramSelfAttention
from bang.text.wordpieces import WordPieces

CHECKPOINT = GOLDEN / "mixed" / "checkpoint.pt"
DEFAULTS = ["--beam", "3", "--max-len", "20", "--len-penalty", "1.2"]
SHIPPED = ROOT / "models" / "debian-synopsis" / "checkpoint.pt"
SOURCES = debian("test.src")
EOS = 102


@pytest.fixture(scope="module")
def folder(tmp_path_factory, link_file):
    """The golden model for transformers, with a link."""
    path = tmp_path_factory.mktemp("hf") / "hf"
    options = ["--vocab", VOCAB_SMALL, "--link", link_file, "--format", "hf", *DEFAULTS]
    main([str(part) for part in ("pack", CHECKPOINT, path, *options)])
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory, link_file):
    """The same in a folder of our own."""
    path = tmp_path_factory.mktemp("hf") / "ours"
    main([str(part) for part in ("pack", CHECKPOINT, path, "--vocab", VOCAB_SMALL, "--link", link_file, *DEFAULTS)])
    return path


@pytest.fixture(scope="module")
def bang_model(ours):
    return Bang.load(ours, device="cpu")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def loaded(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder)


@pytest.fixture
def model(loaded):
    """A copy that a test may change."""
    return copy.deepcopy(loaded)


@pytest.fixture
def copied(folder, tmp_path):
    """A folder to damage."""
    return shutil.copytree(folder, tmp_path / "copied")


@pytest.fixture
def batch(tokenizer):
    """Sources of unequal length, and labels with -100 behind them."""
    inputs = tokenizer(TEXTS[:3], return_tensors="pt", padding=True)
    labels = torch.randint(110, 1000, (3, 7), generator=torch.Generator().manual_seed(1))
    labels[1, 4], labels[1, 5:] = tokenizer.eos_token_id, -100
    return {**inputs, "labels": labels}


def pieces_of(sequences, tokenizer):
    """The word pieces of each text that `generate` gave, without its start symbol and what follows its eos."""
    found = []
    for row in sequences.tolist():
        assert row[0] == tokenizer.eos_token_id
        ended = row.index(tokenizer.eos_token_id, 2)
        # where pad's id is 0 the beam search of transformers pads with eos
        assert set(row[ended + 1 :]) <= {tokenizer.pad_token_id, tokenizer.eos_token_id}
        found.append(tokenizer.convert_ids_to_tokens(row[1:ended]))
    return found


def written(model, texts, tokenizer, **options):
    inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True)
    return pieces_of(model.generate(**inputs, **options), tokenizer)


def test_the_auto_classes_know_it(folder, loaded, tokenizer):
    assert isinstance(loaded, BangForConditionalGeneration) and not loaded.training
    assert type(AutoConfig.from_pretrained(folder)) is BangConfig
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md",
        "link.bin",
    }  # fmt: skip
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    assert "library_name: transformers" in (folder / "README.md").read_text()
    given = loaded.generation_config
    assert (given.num_beams, given.max_length, given.length_penalty, given.early_stopping) == (3, 22, 1.2, True)
    assert tokenizer.model_max_length == 512 and given.decoder_start_token_id == tokenizer.eos_token_id


def test_the_weights_are_the_checkpoints(loaded, trained, folder):
    weights = trained.build().state_dict()
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    assert loaded.encoder.embed_tokens is loaded.decoder.embed_tokens
    assert "encoder.embed_tokens.weight" not in load_file(folder / "model.safetensors")  # shared ones are stored once


def test_the_tokenizer_gives_the_ids_that_the_weights_have(tokenizer, pieces):
    """Line for line those of `bang tokenize`, special pieces that a user spells among them."""
    ids, split = {piece: index for index, piece in enumerate(pieces)}, WordPieces(pieces)
    lines = [*SOURCES[:60], *SPECIAL, "", "  Ünïcode\tand 東京  ##ing "]
    for line, found in zip(lines, tokenizer(lines)["input_ids"], strict=True):
        assert found == [*(ids[piece] for piece in split(line).split()), ids["[SEP]"]], line
    assert tokenizer("a", "a")["input_ids"] == [ids[piece] for piece in ("a", "[X_SEP]", "a", "[SEP]")]
    cut = tokenizer("a " * 600, truncation=True)["input_ids"]
    assert cut == [*[ids["a"]] * 511, ids["[SEP]"]]
    assert tokenizer.decode(tokenizer("a python library")["input_ids"], skip_special_tokens=True) == "a python library"
    assert [getattr(tokenizer, f"{name}_token_id") for name in ("pad", "unk", "bos", "eos", "mask")] == [
        ids[piece] for piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    ]


@pytest.mark.parametrize(
    "options, of_ours",
    [
        (dict(num_beams=1), dict(mode="ar", beam=1)),
        (dict(), dict(mode="ar")),
        (dict(max_length=8, num_beams=4), dict(mode="ar", beam=4, max_len=6)),  # texts that end at the limit
        (dict(min_length=10, no_repeat_ngram_size=2), dict(mode="ar", min_len=9, no_repeat_ngram_size=2)),
        (dict(mode="nar"), dict(mode="nar")),
        (dict(mode="nar", link=False, eos_penalty=2.0), dict(mode="nar", link=False, eos_penalty=2.0)),
        (dict(mode="nar", rescore=3), dict(mode="nar", rescore=3)),
        (dict(mode="semi-nar", block_size=3), dict(mode="semi-nar", block_size=3)),
        (dict(mode="speculative", draft_length=2, max_new_tokens=9), dict(mode="speculative", draft_length=2, max_len=8)),
    ],
    ids=str,
)
def test_generate_writes_what_bang_writes(options, of_ours, loaded, bang_model, tokenizer):
    expected = [found.pieces for found in bang_model.generate(TEXTS, details=True, **of_ours)]
    assert written(loaded, TEXTS, tokenizer, **options) == expected
    assert len(set(map(tuple, expected))) > 3


def test_our_decoding_is_a_custom_generate(loaded, bang_model, tokenizer):
    given = dict(mode="semi-nar", block_size=2)
    expected = written(loaded, TEXTS, tokenizer, **given)
    assert written(loaded, TEXTS, tokenizer, custom_generate=bang.hf.decode, **given) == expected
    config = GenerationConfig(mode="semi-nar", block_size=2, max_length=22)
    assert written(loaded, TEXTS, tokenizer, generation_config=config) == expected
    details = bang_model.generate(TEXTS[:3], details=True, mode="semi-nar", block_size=2, len_penalty=1.2)
    inputs = tokenizer(TEXTS[:3], return_tensors="pt", padding=True)
    found = loaded.generate(**inputs, **given, return_dict_in_generate=True)
    torch.testing.assert_close(found.sequences_scores, torch.tensor([one.score for one in details]), atol=1e-5, rtol=0)
    encoded = loaded.get_encoder()(**inputs)
    assert torch.equal(loaded.generate(encoder_outputs=encoded, **given), found.sequences)
    start = torch.tensor([[tokenizer.eos_token_id, *tokenizer("python")["input_ids"][:-1]]] * 3)
    begun = pieces_of(loaded.generate(**inputs, decoder_input_ids=start, **given), tokenizer)
    assert all(text[0] == "python" for text in begun)


@pytest.mark.parametrize("options", [dict(num_beams=3), dict(num_beams=1), dict(mode="nar"), dict(mode="speculative")], ids=str)
def test_neither_batch_mates_nor_padding_change_a_text(options, loaded, tokenizer):
    together = written(loaded, TEXTS[:4], tokenizer, **options)
    assert [written(loaded, [text], tokenizer, **options)[0] for text in TEXTS[:4]] == together
    left = AutoTokenizer.from_pretrained(tokenizer.name_or_path, padding_side="left")
    assert written(loaded, TEXTS[:4], left, **options) == together


@pytest.mark.parametrize("mode, layout", [("ar", visibility.autoregressive), ("nar", visibility.non_autoregressive)])
def test_a_pass_is_the_networks(mode, layout, loaded, trained, batch):
    found = loaded(**batch, mode=mode)
    network, labels = trained.build(), batch["labels"]
    main_tokens = loaded.prepare_decoder_input_ids_from_labels(labels)
    assert main_tokens[:, 0].eq(loaded.config.eos_token_id).all() and torch.equal(main_tokens[0, 1:], labels[0, :-1])
    sources = batch["input_ids"]
    with torch.no_grad():
        expected, _ = network(sources, sources.ne(0).sum(1), main_tokens, layout=layout(7))
    torch.testing.assert_close(found.logits, expected, atol=2e-5, rtol=0)
    counted = labels != -100
    torch.testing.assert_close(found.loss, F.cross_entropy(expected[counted], labels[counted]))
    torch.testing.assert_close(loaded(**batch, mode=mode, num_items_in_batch=20).loss, found.loss * counted.sum() / 20)
    blocks_of_one = loaded(**batch, mode="semi-nar", block_size=1)
    assert torch.allclose(blocks_of_one.logits, found.logits, atol=1e-4) == (mode == "ar")


def test_cached_steps_are_the_pass(loaded, batch):
    tokens = loaded.prepare_decoder_input_ids_from_labels(batch.pop("labels"))
    whole = loaded(**batch, decoder_input_ids=tokens)
    assert whole.past_key_values is None
    first = loaded(**batch, decoder_input_ids=tokens[:, :4], use_cache=True)
    assert isinstance(first.past_key_values, EncoderDecoderCache) and first.past_key_values.get_seq_length() == 4
    rest = loaded(decoder_input_ids=tokens[:, 4:], past_key_values=first.past_key_values, logits_to_keep=2)
    torch.testing.assert_close(first.logits, whole.logits[:, :4], atol=2e-5, rtol=0)
    torch.testing.assert_close(rest.logits, whole.logits[:, -2:], atol=2e-5, rtol=0)
    assert loaded(**batch, decoder_input_ids=tokens, return_dict=False)[0].equal(whole.logits)
    some = loaded(**batch, decoder_input_ids=tokens[:, :4], use_cache=True).past_key_values
    some.batch_select_indices(torch.tensor([2, 0]))
    rest = loaded(decoder_input_ids=tokens[[2, 0], 4:], past_key_values=some)
    torch.testing.assert_close(rest.logits, whole.logits[[2, 0], 4:], atol=2e-5, rtol=0)
    with pytest.raises(UserError, match="cannot be cut"):
        some.crop(-1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_saved_and_loaded_is_bit_identical(dtype, model, batch, tmp_path, link_file):
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path)
    assert (tmp_path / "link.bin").read_bytes() == link_file.read_bytes()
    (tmp_path / "link.bin").unlink()
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert again.dtype == model.dtype and again.link is None
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert again.generation_config.to_dict() == model.generation_config.to_dict()


def test_what_is_missing_is_started_and_the_rest_left_alone(copied, loaded):
    weights = load_file(copied / "model.safetensors")
    for name in ("decoder.layers.0.ngram_self_attn.in_proj_weight", "decoder.layers.1.fc1.weight"):
        del weights[name]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    started = AutoModelForSeq2SeqLM.from_pretrained(copied)
    differing = [name for name, value in started.state_dict().items() if not torch.equal(value, loaded.state_dict()[name])]
    assert differing == ["decoder.layers.0.ngram_self_attn.in_proj_weight", "decoder.layers.1.fc1.weight"]
    assert 0.015 < started.decoder.layers[1].fc1.weight.std() < 0.025


def test_a_new_model_starts_as_ours():
    """BERT's start: normal weights of 0.02, and Xavier's for the decoder's queries, keys and values."""
    sizes = dict(vocab_size=300, encoder_layers=1, decoder_layers=1, encoder_embed_dim=64, decoder_embed_dim=64)
    new = BangForConditionalGeneration(BangConfig(**sizes, encoder_attention_heads=4, decoder_attention_heads=4))
    for name, value in new.named_parameters():
        if name.endswith("in_proj_weight"):
            assert value.abs().max() <= (6 / (4 * 64)) ** 0.5 + 1e-6 and value.std() > 0.07
        elif name.endswith("bias"):
            assert not value.any(), name
        else:
            assert value.eq(1).all() if "layer_norm" in name else 0.015 < value.std() < 0.025, name
    assert not new.decoder.embed_tokens.weight[0].any() and new.decoder.version.item() == 3
    assert new.decoder.embed_out is not None and new.encoder.embed_tokens is not new.decoder.embed_tokens
    base = BangConfig(architecture="bang_ar_nar_mixed_base", encoder_layers=5, num_attention_heads=8)
    assert (base.encoder_ffn_embed_dim, base.hidden_size, base.decoder_attention_heads, base.tie_word_embeddings) == (
        3072,
        768,
        8,
        True,
    )


def test_untied_models_and_configurations_survive(tmp_path):
    sizes = dict(encoder_embed_dim=48, decoder_embed_dim=32, encoder_attention_heads=4, decoder_attention_heads=4)
    sizes |= dict(vocab_size=200, encoder_layers=1, decoder_layers=1, eos_token_id=9, pad_token_id=1)
    untied = BangForConditionalGeneration(BangConfig(architecture="bang_ar_nar_mixed", **sizes)).eval()
    untied.save_pretrained(tmp_path)
    again = BangForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.sizes == untied.config.sizes and again.config.decoder_start_token_id == 9
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in untied.state_dict().items())
    with pytest.raises(UserError, match="the vocabulary cannot be resized"):
        again.resize_token_embeddings(220)
    for architecture in (
        "bang_ar_nar_mixed_base",
        "bang_ar_nar_mixed_large",
    ):  # sizes that are the defaults of another architecture
        config = BangConfig(architecture=architecture, encoder_ffn_embed_dim=2048, decoder_layers=6, dropout=0.2)
        config.save_pretrained(tmp_path / architecture)
        assert AutoConfig.from_pretrained(tmp_path / architecture).sizes == config.sizes


def test_the_vocabulary_can_grow(model, batch, tmp_path):
    model.resize_token_embeddings(model.config.vocab_size + 3)
    assert model(**batch).logits.size(2) == model.config.vocab_size
    model.save_pretrained(tmp_path)
    (tmp_path / "link.bin").unlink()
    assert torch.equal(AutoModelForSeq2SeqLM.from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)


def test_a_nar_model_writes_nar(tokenizer):
    model = to_transformers(read_checkpoint(GOLDEN / "nar" / "checkpoint.pt", VOCAB_SMALL))
    assert model.generation_config.mode == "nar"
    short = dict(max_length=12)
    assert written(model, TEXTS[:4], tokenizer, **short) == written(model, TEXTS[:4], tokenizer, mode="nar", **short)
    small = dict(encoder_layers=1, decoder_layers=1, vocab_size=200, max_target_positions=6)
    alone = BangForConditionalGeneration(BangConfig(architecture="bang_nar", **small)).eval()
    source = torch.tensor([[150, 102]])
    assert alone.generate(source).size(1) <= 7
    with pytest.raises(UserError, match="^mode 'ar': this model has nar$"):
        alone.generate(source, mode="ar")
    with pytest.raises(UserError, match="^mode='ar': this model has nar$"):
        alone(source, decoder_input_ids=source)


def test_a_text_ends_where_the_model_does():
    """The decoder's positions are a limit whatever `max_length` says, as in fairseq."""
    small = dict(encoder_layers=1, decoder_layers=1, vocab_size=200, max_target_positions=6)
    model = BangForConditionalGeneration(BangConfig(**small)).eval()
    for mode in model.config.decodes:
        found = model.generate(torch.tensor([[150, 151, 102]]), mode=mode, max_length=50, min_length=40, num_beams=1)
        assert found.size(1) == 7 and found[0, -1] == 102 and 102 not in found[0, 1:-1]


def test_there_and_back(folder, ours, tmp_path):
    """A folder of ours, and the checkpoint behind it, is what comes back."""
    main(["pack", str(folder), str(tmp_path / "back")])
    for name in ("model.safetensors", "vocab.txt", "link.bin"):
        assert (tmp_path / "back" / name).read_bytes() == (ours / name).read_bytes(), name
    configs = [json.loads((path / "config.json").read_text()) for path in (tmp_path / "back", ours)]
    assert configs[0] == configs[1]
    main(["pack", "--format", "hf", str(ours), str(tmp_path / "hf")])
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (folder / name).read_bytes(), name
    main(["pack", str(ours), str(tmp_path / "again"), "--dtype", "float16", "--mode", "nar"])
    again = read_folder(tmp_path / "again")
    assert again.generation["mode"] == "nar" and again.generation["beam"] == 3
    assert again.weights["decoder.layers.0.fc1.weight"].dtype == torch.float16


def test_the_trainer_lowers_the_loss(model, tokenizer, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    targets = debian("test.tgt")
    data = [dict(tokenizer(src), labels=tokenizer(tgt)["input_ids"]) for src, tgt in zip(SOURCES[:16], targets[:16])]
    arguments = Seq2SeqTrainingArguments(
        tmp_path / "run", max_steps=20, per_device_train_batch_size=4, learning_rate=5e-3,
        logging_steps=1, use_cpu=True, report_to=[], predict_with_generate=True, disable_tqdm=True, save_steps=20,
    )  # fmt: skip
    trainer = Seq2SeqTrainer(
        model, arguments, train_dataset=data, data_collator=DataCollatorForSeq2Seq(tokenizer, model), processing_class=tokenizer
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 20 and sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert trainer.predict(data[:4], mode="nar", max_length=12).predictions.shape[0] == 4
    saved = tmp_path / "run" / "checkpoint-20"
    back = hf_folder.read_folder(saved)  # what the trainer saved goes back to a model of ours
    assert torch.equal(back.weights["decoder.layers.0.fc1.weight"], model.state_dict()["decoder.layers.0.fc1.weight"])


def test_a_lora_trains_and_acts_wherever_it_stands(model, batch):
    """fairseq's attention would pass over an adapter of its projections in training, and use it in cached steps."""
    peft = pytest.importorskip("peft")
    before = model(**batch).logits
    targets = ["q_proj", "k_proj", "v_proj", "out_proj", "relative_linear", "fc1", "fc2"]
    lora = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=targets))
    lora.train()
    optimizer = torch.optim.AdamW([value for value in lora.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = lora(**batch).loss
        loss.backward()
        idle = [name for name, value in lora.named_parameters() if value.requires_grad and value.grad is None]
        assert not idle
        optimizer.step()
        touched = {name for name, value in lora.named_parameters() if value.grad is not None and value.grad.any()}
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert touched == {name for name, value in lora.named_parameters() if value.requires_grad}
    lora.eval()
    labels = batch.pop("labels")
    tokens = model.prepare_decoder_input_ids_from_labels(labels)
    whole = lora(**batch, decoder_input_ids=tokens).logits
    assert (whole - before).abs().max() > 0.1
    steps = lora(**batch, decoder_input_ids=tokens, use_cache=True).logits
    torch.testing.assert_close(steps, whole, atol=1e-4, rtol=0)
    adapted = {mode: lora.generate(**batch, mode=mode, num_beams=1) for mode in ("ar", "nar")}
    merged = lora.merge_and_unload()
    torch.testing.assert_close(merged(**batch, decoder_input_ids=tokens).logits, whole, atol=1e-4, rtol=0)
    assert all(torch.equal(merged.generate(**batch, mode=mode, num_beams=1), adapted[mode]) for mode in adapted)


def test_a_lora_of_a_bare_parameter_decodes_once_merged(model, batch):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_parameters=["ngram_self_attn.in_proj_weight"])
    lora = peft.get_peft_model(model, config)
    lora(**batch).loss.backward()
    assert any(value.grad is not None and value.grad.any() for value in lora.parameters())
    labels = batch.pop("labels")
    for options in (dict(mode="nar"), dict(num_beams=1)):
        with pytest.raises(UserError, match="call merge_and_unload"):
            lora.eval().generate(**batch, **options)
    merged = lora.merge_and_unload()
    assert isinstance(merged.decoder.layers[0].ngram_self_attn, NgramSelfAttention) and len(labels)
    assert len(merged.generate(**batch, mode="nar")) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(mode="nra"), "mode 'nra': give one of ar, semi-nar, nar, speculative"),
        (dict(mode="nar", num_beams=4), "num_beams: no effect in mode nar, which is decoded greedily; leave it out"),
        (dict(mode="nar", do_sample=True), "do_sample: no effect in mode nar, which is decoded greedily; leave it out"),
        (dict(mode="nar", num_return_sequences=2), "num_return_sequences: no effect in mode nar"),
        (dict(prompt_lookup_num_tokens=3, num_beams=1), "prompt_lookup_num_tokens: the model drafts for itself with mode="),
        (dict(mode="semi-nar", block_size=0), "block_size=0: give a whole number, 1 or more"),
        (dict(mode="speculative", link=True), "link=True: this model has none, or mode speculative has no use for one"),
        (dict(mode="nar", decoder_input_ids=torch.full((3, 2), 300)), "mode nar: its texts have no given beginning"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_generate_refuses_in_one_line(options, message, loaded, batch):
    del batch["labels"]
    with pytest.raises(UserError, match=message) as error:
        loaded.generate(**batch, **options)
    assert "\n" not in str(error.value)


def test_a_pass_refuses_in_one_line(model, batch):
    labels = batch.pop("labels")
    long = torch.full((1, 513), 300)
    for arguments, message in (
        (dict(input_ids=long, labels=labels), "a source has 513 word pieces, over the model's limit of 512"),
        (dict(**batch, decoder_input_ids=long.expand(3, -1)), "a target of 513 word pieces is over the model's limit of 512"),
        (dict(**batch), "there is no target: give labels or decoder_input_ids, or call generate"),
        (dict(labels=labels), "there is no source: give input_ids or encoder_outputs"),
        (dict(**batch, labels=labels, mode="nra"), "mode 'nra': give one of"),
        (dict(inputs_embeds=torch.zeros(1, 2, 48), labels=labels), "inputs_embeds: the model takes ids alone"),
        (dict(**batch, decoder_input_ids=labels, decoder_attention_mask=torch.eye(7)[:3]), "pads on the right alone"),
        (dict(**batch, decoder_input_ids=labels, mode="nar", use_cache=True), "a cache in AR alone"),
        (dict(**batch, decoder_input_ids=labels, past_key_values=((),)), "past_key_values of type tuple: leave it out"),
    ):
        with pytest.raises(UserError, match=message) as error:
            model(**arguments)
        assert "\n" not in str(error.value)
    model.train()
    with pytest.raises(UserError, match="call eval"):
        model.generate(**batch)


def test_folders_that_are_none_get_one_line(copied, ours, tmp_path):
    def refused(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        assert "\n" not in stop.value.code
        assert not (tmp_path / "new").exists()
        return stop.value.code

    assert f"bang pack {copied} FOLDER turns it into one of ours" in refused("generate", copied)
    assert "brings its own vocabulary" in refused("pack", copied, tmp_path / "new", "--vocab", VOCAB_SMALL)
    with pytest.raises(UserError, match="this is a folder of bang pack: make one for transformers with bang pack --format hf"):
        BangForConditionalGeneration.from_pretrained(ours)
    config = json.loads((copied / "config.json").read_text())
    for more in ({"deep": json.loads("[" * 900 + "]" * 900)}, {"encoder_ffn_embed_dim": 1 << 62}):
        (copied / "config.json").write_text(json.dumps({**config, **more}))
        assert f"{copied}: damaged, or made for another version" in refused("pack", copied, tmp_path / "new")
    (copied / "config.json").write_text(json.dumps(config))
    weights = load_file(copied / "model.safetensors")
    save_file({**weights, "more": torch.zeros(1)}, copied / "model.safetensors", metadata={"format": "pt"})
    assert f"{copied}: does not fit this model: has unknown more" in refused("pack", copied, tmp_path / "new")
    (copied / "model.safetensors").write_bytes((copied / "model.safetensors").read_bytes()[:-1000])
    assert "model.safetensors: cannot be read; truncated" in refused("pack", copied, tmp_path / "new")
    (copied / "model.safetensors").unlink()
    assert "lacks model.safetensors" in refused("pack", copied, tmp_path / "new")
    (copied / "tokenizer.json").write_text("{}")
    assert "no tokenizer can be read from it" in refused("pack", copied, tmp_path / "new")
    (copied / "tokenizer.json").unlink()
    assert "lacks tokenizer.json" in refused("pack", copied, tmp_path / "new")
    (copied / "config.json").write_text('{"model_type": "bang", "sizes": ')
    assert "config.json: not JSON" in refused("pack", copied, tmp_path / "new")
    assert "is there already" in refused("pack", "--format", "hf", ours, ours)


def test_configurations_that_are_none_get_one_line(copied):
    for options, message in (
        (dict(architecture="bang_huge"), "architecture='bang_huge': not one of BANG's"),
        (dict(encoder_attention_heads=5), "--encoder-attention-heads 5: give a number that divides"),
        (dict(generation_defaults={"beam": 0}), "beam=0: give a whole number"),
    ):
        with pytest.raises(UserError, match=message):
            BangConfig(**options)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))
    with pytest.raises(UserError, match="its tokenizer has 1389 word pieces, and the weights are of 1390$"):
        hf_folder.read_folder(copied)
    (copied / "config.json").write_text(json.dumps({**config, "encoder_ffn_embed_dim": 100}))
    with pytest.raises(UserError, match="fc1.weight is .* there and .* here; check --encoder-ffn-embed-dim"):
        hf_folder.read_folder(copied)


@pytest.mark.parametrize("installed, said", [(None, "which is not installed"), ("4.57.1", "4.57.1 is installed")])
def test_without_transformers_one_line_says_what_to_install(installed, said, monkeypatch):
    """Of an older one too."""

    def version(name):
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError) as error:
        bang.hf.check_version()
    message = str(error.value)
    assert message.startswith(f"bang.hf needs transformers 5 or later, {said}: pip install ") and "[hf]'" in message


def test_it_warns_of_a_mode_that_was_not_trained(trained, tokenizer, caplog):
    """Once."""
    model = to_transformers(trained)
    generation._warn_once.cache_clear()
    for _ in range(2):
        written(model, TEXTS[:1], tokenizer, mode="semi-nar", max_length=9)
    assert caplog.text.count("mode semi-nar: this model was not trained for it") == 1
    assert generation_config(model.config).mode in model.config.decodes


def test_the_page_and_the_example_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(CHECKPOINT, tmp_path / "checkpoints" / "checkpoint_best.pt")
    shutil.copy(VOCAB_SMALL, tmp_path / "checkpoints" / "dict.src.txt")
    monkeypatch.chdir(tmp_path)
    page = DOCS / "huggingface.md"
    (commands,) = blocks(page)
    for line in commands.strip().splitlines():
        main(line.split()[1:])
    assert (tmp_path / "model" / "vocab.txt").exists()
    capsys.readouterr()
    use, adapt = blocks(page, language="python")
    pytest.importorskip("peft")
    exec(compile(use + adapt, page.name, "exec"), {})
    assert "trainable params" in capsys.readouterr().out
    runpy.run_path(str(ROOT / "examples" / "hugging_face.py"))
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "beam search", "semi-nar", "nar", "speculative",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_shipped_models_300_texts_are_equal():
    """Greedily, with beams, and in BANG's own modes."""
    trained = read_checkpoint(SHIPPED)
    model, shipped = to_transformers(trained), Bang.load(SHIPPED, device="cpu")
    tokenizer = build_tokenizer(trained.dictionary.symbols, 512)
    texts = sorted(SOURCES, key=len)
    for options, of_ours in (
        (dict(num_beams=1), dict(mode="ar", beam=1)),
        (dict(num_beams=4, length_penalty=1.2), dict(mode="ar", beam=4, len_penalty=1.2)),
        *((dict(mode=mode), dict(mode=mode)) for mode in ("nar", "semi-nar", "speculative")),
    ):
        expected = [found.pieces for found in shipped.generate(texts, details=True, truncate=True, **of_ours)]
        parts = [written(model, texts[start : start + 20], tokenizer, **options) for start in range(0, len(texts), 20)]
        assert [text for part in parts for text in part] == expected
