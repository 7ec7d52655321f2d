"""Being asked to stop: once, twice, by the terminal that goes away, and where the program was started to outlive it."""

import signal

import pytest

from mlxtune.run.signals import ASKING, Asked, StopRequests, ending_at_once


@pytest.fixture
def hangup():
    """SIGHUP, as a system has it that knows it; its handler is put back."""
    number = getattr(signal, "SIGHUP", None)
    if number is None:
        pytest.skip("this system has no SIGHUP")
    before = signal.getsignal(number)
    yield number
    signal.signal(number, before)


@pytest.mark.parametrize("number", ASKING)
def test_the_first_signal_is_remembered_and_the_second_ends_at_once(number):
    with StopRequests() as requests:
        signal.raise_signal(number)
        assert requests.exit_code == 128 + number
        with pytest.raises(Asked) as asked:
            signal.raise_signal(number)
        assert asked.value.exit_code == 128 + number
        assert requests.times == 2


@pytest.mark.parametrize("number", ASKING)
def test_where_nothing_would_be_lost_the_first_signal_ends_at_once(number):
    with StopRequests() as requests:
        requests.at_once = True
        with pytest.raises(Asked):
            signal.raise_signal(number)
        assert (requests.signal, requests.times) == (number, 1)


def test_the_handlers_are_as_before_when_it_is_over():
    before = [signal.getsignal(number) for number in ASKING]
    with ending_at_once("over"), StopRequests():
        pass
    assert [signal.getsignal(number) for number in ASKING] == before


def test_a_program_that_was_started_with_nohup_goes_on(hangup):
    signal.signal(hangup, signal.SIG_IGN)
    with ending_at_once("over"), StopRequests() as requests:
        signal.raise_signal(hangup)
        assert requests.signal is None
