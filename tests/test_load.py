"""`Bang.load`, and what a loaded model does to the program around it: imports, logging, threads, forks, memory, copies."""

import copy
import dataclasses
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import CHECKPOINT, ROOT, VOCAB_SMALL
from support import fairseq_configurations
from support.kills import forked

from bang import Bang
from bang.inference import load as loader
from bang.inference import trained_model
from bang.inference.torch_engine import TorchEngine
from bang.inference.trained_model import read_checkpoint
from bang.modes import MODES
from bang.safety.hooks import GlobalHydra


@pytest.mark.parametrize("arguments, message", [
    (dict(model="no-such-model"), "no-such-model: no such model"),
    (dict(model="{tmp}"), "no config.json in it"),
    (dict(model="{tmp}/text"), "cannot be read"),
    (dict(model=CHECKPOINT), r"has \d+ word pieces, not those of .*vocab.txt, 30522; give the vocabulary"),
    (dict(model=CHECKPOINT, vocab="no-such-vocabulary"), "no-such-vocabulary: no such dictionary"),
    (dict(model=CHECKPOINT, vocab=VOCAB_SMALL, dtype="int7"), "dtype 'int7': give one of float32"),
    (dict(model=CHECKPOINT, vocab=VOCAB_SMALL, device="tpu9"), "device 'tpu9'"),
    (dict(model=CHECKPOINT, vocab=VOCAB_SMALL, threads=0), "threads=0"),
    (dict(model=CHECKPOINT, vocab=VOCAB_SMALL, threads="2"), "threads='2': give a whole number, 1 or more"),
])  # fmt: skip
def test_what_cannot_be_loaded(arguments, message, tmp_path):
    (tmp_path / "text").write_text("no checkpoint\n")
    arguments = {**arguments, "model": str(arguments["model"]).format(tmp=tmp_path)}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refusal:
        Bang.load(**arguments)
    assert "\n" not in str(refusal.value)


def test_importing_loads_neither_torch_nor_fairseq():
    code = "import sys; from bang import Bang; assert not {'torch', 'fairseq', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_logging_stays_as_it_was():
    code = (
        "import logging; from bang import Bang; "
        f"Bang.load({str(CHECKPOINT)!r}, vocab={str(VOCAB_SMALL)!r}); "
        "assert (logging.root.handlers, logging.root.level, logging.root.manager.disable) == ([], logging.WARNING, 0)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_imports_of_two_threads_leave_logging_as_it_was(monkeypatch):
    """One begins while the other is at it; the application's INFO is heard all the time."""
    heard, under_way = [], threading.Barrier(2)

    def slow_import(name):
        time.sleep(0.05)
        heard.append(logging.getLogger("application").isEnabledFor(logging.INFO))
        logging.basicConfig(level=logging.DEBUG)  # as fairseq's modules do

    def begin(_):
        under_way.wait()
        loader.import_heavy("some.module")

    monkeypatch.setattr(loader.importlib, "import_module", slow_import)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        root.setLevel(logging.INFO)
        for own in (handlers, []):
            root.handlers[:] = own
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(begin, range(2)))
            assert (root.handlers, root.level, root.manager.disable) == (own, logging.INFO, 0)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert heard == [True] * 4


def test_threads_load_checkpoints_of_fairseq_0_9(monkeypatch):
    """fairseq makes their options today's through Hydra's one state, which the application may use too."""
    upgrade = trained_model.checkpoint_utils._upgrade_state_dict
    upgrades, at_once = [], 0

    def watched(state):
        nonlocal at_once
        at_once += 1
        upgrades.append(at_once)
        try:
            return upgrade(state)
        finally:
            at_once -= 1

    monkeypatch.setattr(trained_model.checkpoint_utils, "_upgrade_state_dict", watched)
    before, own = GlobalHydra.instance().hydra, object()
    GlobalHydra.instance().hydra = own
    try:
        with ThreadPoolExecutor(4) as pool:
            models = list(pool.map(lambda _: read_checkpoint(CHECKPOINT, VOCAB_SMALL), range(4)))
        assert GlobalHydra.instance().hydra is own
    finally:
        GlobalHydra.instance().hydra = before
    assert len({model.updates for model in models}) == 1 and upgrades == [1] * 4


def test_a_forked_process_may_generate(model, texts, monkeypatch):
    """torch's threads do not come along, and a lock may be held."""
    monkeypatch.setattr("bang.inference.torch_engine._PATIENCE", 0.1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = model.generate(texts, "nar")
        with model.engine._lock:
            assert forked(lambda: model.generate(texts, "nar") == expected) is True
        assert torch.get_num_threads() == 2 and model.generate(texts, "nar") == expected
    finally:
        torch.set_num_threads(threads)


def test_a_fork_waits_for_the_batch_of_another_thread(model, texts):
    """Else what torch's libraries lock there would stay locked in the child."""
    expected, ended = model.generate(texts, "nar"), threading.Event()

    def generate():
        while not ended.is_set():
            model.generate(texts, "nar")

    thread = threading.Thread(target=generate)
    thread.start()
    try:
        for _ in range(4):
            assert forked(lambda: model.generate(texts, "nar") == expected) is True
        assert thread.is_alive() and model.generate(texts, "nar") == expected
    finally:
        ended.set()
        thread.join()


def test_a_forked_process_may_generate_with_an_export(runtime, texts):
    expected = runtime.generate(texts, "nar")
    assert forked(lambda: runtime.generate(texts, "nar") == expected) is True


def test_a_gpu_is_not_to_be_had_in_a_forked_process(texts, trained, monkeypatch):
    model = Bang(TorchEngine(trained, device="cpu"), trained.dictionary.symbols)
    model.engine._device = torch.device("cuda", 0)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ValueError, match="^the model is on cuda:0, which a forked process cannot use: load it in each process"):
        model.generate(texts[:1])


def test_a_model_that_is_deleted_is_gone(texts, exported, monkeypatch):
    """At once: nothing waits for the garbage collector."""
    monkeypatch.setattr(fairseq_configurations.utils, "compose", fairseq_configurations.COMPOSE)  # leaves cycles
    collects = gc.isenabled()
    gc.disable()
    try:
        for arguments in (dict(model=CHECKPOINT, vocab=VOCAB_SMALL), dict(model=exported)):
            model = Bang.load(**arguments)
            for mode in MODES:
                model.generate(texts[:2], mode, max_len=4)
            parts = [model, model.engine, model.tokenizer.word_pieces]
            if hasattr(model.engine, "_network"):
                parts += [model.engine._network, model.engine._network.decoder.embed_tokens.weight]
            left = [weakref.ref(part) for part in parts]
            del model, parts
            assert [part() for part in left] == [None] * len(left)
    finally:
        if collects:
            gc.enable()


def test_pickle_and_deepcopy_load_again(model, texts, tmp_path, monkeypatch):
    changed = copy.copy(model.defaults)
    loaded = Bang.load(os.path.relpath(CHECKPOINT), vocab=os.path.relpath(VOCAB_SMALL), threads=torch.get_num_threads())
    loaded.defaults = dataclasses.replace(changed, mode="nar", max_len=5)
    pickled = pickle.dumps(loaded)
    assert len(pickled) < 2000
    monkeypatch.chdir(tmp_path)  # paths are kept whole
    for other in (pickle.loads(pickled), copy.deepcopy(loaded)):
        assert other.engine is not loaded.engine and other.generate(texts[:5]) == loaded.generate(texts[:5])
    with pytest.raises(TypeError, match="^cannot copy or pickle a Bang that was made from an engine: Bang.load makes one"):
        pickle.dumps(Bang(model.engine, model.pieces))
