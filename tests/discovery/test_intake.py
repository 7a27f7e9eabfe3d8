from __future__ import annotations

from stronghold_p2p.discovery.intake import MAX_BYTES, MAX_BYTES_PER_SENDER, MAX_PACKETS, PACKET, Intake


def test_beyond_its_limit_nothing_is_read_for_the_rest_of_the_second() -> None:
    intake = Intake()
    assert [intake.read(10.0) for _ in range(MAX_PACKETS - 1)] == [0.0] * (MAX_PACKETS - 1)
    assert intake.read(10.25) == 0.75
    assert intake.read(10.5) == 0.5, "what another link has read at the same time"
    assert intake.read(11.0) == 0.0


def test_one_sender_leaves_room_for_others() -> None:
    intake = Intake()
    intake.read(0.0)
    assert all(intake.takes("10.0.0.1", 1024) for _ in range(MAX_BYTES_PER_SENDER // 1024))
    assert not intake.takes("10.0.0.1", 1)
    assert intake.takes("10.0.0.2", 1024)
    intake.read(1.0)
    assert intake.takes("10.0.0.1", 1024), "a new second"


def test_all_senders_together_have_a_limit() -> None:
    intake = Intake()
    intake.read(0.0)
    senders = [f"10.0.0.{number}" for number in range(100)]
    assert sum(intake.takes(sender, 9000) for sender in senders) == MAX_BYTES // 9000


def test_a_small_packet_costs_something_too() -> None:
    intake = Intake()
    intake.read(0.0)
    assert sum(intake.takes("10.0.0.1", 12) for _ in range(MAX_PACKETS)) == MAX_BYTES_PER_SENDER // PACKET
