"""Every job that asks for any GPU has one of its own, for as long as it lives."""

import multiprocessing
import time

import pytest
import torch

from universal_neurons import devices
from universal_neurons.devices import device_of, take_card
from universal_neurons.errors import UserError

CARDS = ["GPU-a", "GPU-b"]


def job(folder, taken, go):
    taken.put(take_card(CARDS, folder))
    go.wait()


@pytest.fixture
def start(tmp_path):
    """Start a job that takes a card and keeps it until it is told to end, or is killed."""
    context = multiprocessing.get_context("fork")
    started = []

    def begin():
        taken, go = context.Queue(), context.Event()
        process = context.Process(target=job, args=(tmp_path, taken, go), daemon=True)
        process.start()
        started.append(process)
        return process, taken, go

    yield begin
    for process in started:
        process.kill()
        process.join()


def test_jobs_side_by_side_have_different_cards(start):
    assert {start()[1].get(timeout=30) for _ in CARDS} == {0, 1}


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_a_job_without_a_free_card_waits_until_another(monkeypatch, start, how):
    monkeypatch.setattr(devices, "AGAIN", 0.05)
    first, taken, go = start()
    card = taken.get(timeout=30)
    start()[1].get(timeout=30)
    _, third, _ = start()
    time.sleep(0.3)
    assert third.empty()
    go.set() if how == "ends" else first.kill()
    assert third.get(timeout=30) == card


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused():
    assert device_of("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match=rf"device: {name}: no CUDA device is available"):
            device_of(name)


def test_models_of_one_job_share_its_card(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: None)
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    devices._own_card.cache_clear()
    held = list(devices._held)
    try:
        assert device_of("auto") == device_of("cuda") == torch.device("cuda", 0)
        assert device_of("cuda:1") == torch.device("cuda", 1)
        assert len(devices._held) == len(held) + 1
    finally:
        devices._own_card.cache_clear()
        while len(devices._held) > len(held):
            devices._held.pop().close()
