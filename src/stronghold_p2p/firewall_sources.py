"""Applies a policy and a state file: at the start, and when they change."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .config import Config
from .ending import end_all
from .errors import PolicyError, StateError
from .event_hub import EventHub
from .events import BanChanged, Direction, NameChanged, PolicyFailed, PolicyLoaded, StateFailed
from .firewall.admission import Admission
from .firewall.gate import Gate
from .firewall.names import Names
from .firewall.paced_traffic import PacedTraffic
from .firewall.policy import Policy
from .firewall.policy_watch import PolicyWatch
from .firewall.quotas import Limit
from .firewall.rules import Firewall, Rule
from .firewall.traffic import TrafficLimits
from .firewall.trial import Trial
from .identity import PeerId
from .store.changes import BanChange, Change, NameChange, RuleChange

if TYPE_CHECKING:
    from .store.database_thread import DatabaseThread
    from .store.firewall_memory import FirewallMemory

__all__ = ["FirewallSources"]

logger = logging.getLogger("stronghold_p2p")


class FirewallSources:
    """Applies a policy and a state file to the firewall, admission, approvers, names and the limits of each ``traffic``, and
    stores answers, bans and names in the state file. ``admission_changed`` is called when existing connections may have to be
    closed."""

    def __init__(
        self,
        policy: Policy | str | os.PathLike[str] | None,
        state: DatabaseThread | None,
        *,
        firewall: Firewall,
        gate: Gate,
        admission: Admission,
        approvers_changed: Callable[[frozenset[PeerId], int], None],
        names: Names,
        traffic: Sequence[PacedTraffic[Any]],
        config: Config,
        events: EventHub,
        admission_changed: Callable[[], None],
    ) -> None:
        """
        Raises:
            TypeError: ``policy`` has a rule with a type that no request has.
        """
        self._policy = policy
        self._firewall = firewall
        self._gate = gate
        self._admission = admission
        self._approvers_changed = approvers_changed
        self._names = names
        self._traffic = traffic
        self._config = config
        self._events = events
        self._admission_changed = admission_changed
        self._watch: PolicyWatch | None = None
        self._memory: FirewallMemory | None = None
        self._started = False
        if isinstance(policy, Policy):
            firewall.check(policy.rules, policy.type_limits)
        if state is not None:
            from .store.firewall_memory import FirewallMemory  # with SQLite, for those who have a state file

            self._memory = FirewallMemory(state, apply=self._remember, failed=self.state_failed)
            firewall.ended = self._memory.drop_ended

    async def start(self) -> None:
        """Applies both.

        Raises:
            PolicyError, StateError: a file is unusable; call :meth:`close` then.
        """
        # The policy first: if it is invalid, no state file is created.
        if isinstance(self._policy, Policy):
            self._apply_policy(self._policy)
        elif self._policy is not None:
            self._watch = PolicyWatch(
                self._policy, apply=self._policy_loaded, failed=self._policy_failed, types=self._firewall.types
            )
            await self._watch.load()
        if self._memory is not None:
            await self._memory.start()
        if self._watch is not None:
            self._watch.start()
        self._started = True

    async def close(self) -> None:
        """Stops watching the files. Returns when the state file is written."""
        await end_all(*(part.close for part in (self._watch, self._memory) if part is not None))

    def reload_policy(self) -> None:
        """Reloads the policy file; without one, does nothing."""
        if self._watch is not None:
            self._watch.reload()

    def keep_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> None:
        """Stores a rule of ``peer``; None deletes it."""
        if self._memory is not None:
            self._memory.keep_rule(peer, direction, rule)

    def keep_ban(self, peer: PeerId, banned: bool) -> asyncio.Future[None] | None:
        """Stores or deletes a ban. The future completes when it is on disk, or with StateError; None without a state
        file."""
        return self._memory.keep_ban(peer, banned) if self._memory is not None else None

    def keep_name(self, peer: PeerId, name: str | None) -> None:
        """Stores a petname of ``peer``; None deletes it."""
        if self._memory is not None:
            self._memory.keep_name(peer, name)

    # -- the policy ------------------------------------------------------------------------------

    def _apply_policy(self, policy: Policy) -> None:
        if policy.approvers and self._config.processes > 1:
            reason = "approvers cannot be asked by several processes, since they are connected to one of them"
            raise PolicyError(self._path, 0, "approval.approvers", reason)
        # Of one that is only observed, nothing but its names is in force.
        in_force = policy if policy.mode == "enforce" else Policy(names=policy.names)
        self._names.set_policy(policy.names, policy.groups)
        self._admission.set_policy(in_force.admission)
        default = Limit(in_flight=in_force.requests_in_flight, per_second=in_force.requests_per_second)
        limits = TrafficLimits.of(self._config, default, in_force.peer_limits)
        for traffic in self._traffic:
            traffic.limit(limits)
        of_types = {name: its.divided(self._config.processes) for name, its in in_force.type_limits.items()}
        self._gate.quotas.set_limits(of_types, in_force.peer_limits)
        self._gate.trial = None if in_force is policy else Trial(policy.rules, policy.rule_lines, policy.admission)
        self._firewall.set_policy(in_force.rules, in_force.rule_lines)
        # After the rules: fewer that are needed must approve nothing that they now reject. What they now ask is asked later.
        self._approvers_changed(in_force.approvers, in_force.need)
        self._admission_changed()

    @property
    def _path(self) -> str:
        return "<policy>" if isinstance(self._policy, Policy) else str(self._policy)

    def _policy_loaded(self, policy: Policy) -> None:
        self._apply_policy(policy)
        self._events.emit(PolicyLoaded(self._path))

    def _policy_failed(self, error: PolicyError) -> None:
        logger.warning("%s; the previous policy stays in force", error)
        self._events.emit(PolicyFailed(error))

    # -- the state file --------------------------------------------------------------------------

    def _remember(self, changes: Sequence[Change]) -> None:
        """Applies what the state file holds at the start, and what others change in it."""
        for change in changes:
            if isinstance(change, BanChange):
                (self._admission.ban if change.banned else self._admission.unban)(change.peer)
                if self._started:
                    self._events.emit(BanChanged(change.peer, change.banned))
            elif isinstance(change, NameChange):
                # Else it is what we have written.
                if self._started and self._names.petnames.get(change.peer) != change.name:
                    self._events.emit(NameChanged(change.peer, change.name))
                self._names.set_petname(change.peer, change.name)
            elif change.rule is not None or self._has_rule(change):
                self._firewall.restore_peer_rule(change.peer, change.rule, change.direction)
        if any(isinstance(change, BanChange) for change in changes):
            self._admission_changed()

    def _has_rule(self, change: RuleChange) -> bool:
        """Whether the firewall still has what the file had: no call has replaced it."""
        return self._firewall.peer_rule(change.peer, change.direction) == self._firewall.left_of(change.before)

    def state_failed(self, error: StateError) -> None:
        logger.warning("%s", error)
        self._events.emit(StateFailed(error))
