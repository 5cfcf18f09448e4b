"""What every state registry has to do (plugins.md B.12)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from dsfast.plugin import StateRegistry, StateRegistryFactory, StateTopic
from dsfast.testing.plugins import started
from dsfast.testing.samples import NAMES

__all__ = ["StateRegistryConformance"]


class StateRegistryConformance:
    """Subclass it, name the factory in ``plugin_class``; its server is called ``one`` and is alone."""

    pytestmark = pytest.mark.asyncio
    plugin_class: ClassVar[type[StateRegistryFactory]]

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the plugin."""
        return {}

    @pytest_asyncio.fixture
    async def factory(self, options: Mapping[str, Any]) -> AsyncIterator[StateRegistryFactory]:
        """The plugin, ready."""
        async with started(self.plugin_class, options, config={"serverName": "one"}) as factory:
            yield factory

    @pytest_asyncio.fixture
    async def registry(self, factory: StateRegistryFactory) -> StateRegistry:
        """One registry of it, ready and empty."""
        registry = factory.get_state_registry(StateTopic.ONLINE_USERS)
        await registry.when_ready()
        return registry

    async def test_describes_itself(self, factory: StateRegistryFactory) -> None:
        assert factory.description

    async def test_each_topic_has_one(self, factory: StateRegistryFactory) -> None:
        made = {topic: factory.get_state_registry(topic) for topic in StateTopic}
        assert all(factory.get_state_registry(topic) is registry for topic, registry in made.items())
        assert len({id(registry) for registry in made.values()}) == len(made)
        assert {int(topic): registry for topic, registry in factory.get_state_registries().items()} == {
            int(topic): registry for topic, registry in made.items()
        }
        made[StateTopic.RPC_SUBSCRIPTIONS].add("a")
        assert not made[StateTopic.ONLINE_USERS].has("a")

    async def test_a_name_is_there_until_its_last_holder_goes(self, registry: StateRegistry) -> None:
        told: list[str] = []
        registry.on_add(lambda name: told.append(f"+{name}"))
        registry.on_remove(lambda name: told.append(f"-{name}"))
        assert not registry.has("a") and registry.get_all() == [] and registry.get_all_servers("a") == []
        registry.add("a")
        assert told == ["+a"], "callbacks are called before add returns"
        registry.add("a")
        registry.remove("a")
        assert registry.has("a") and told == ["+a"]
        assert registry.get_all() == ["a"]
        assert registry.get_all("one") == ["a"] and registry.get_all("two") == []
        assert registry.get_all_servers("a") == ["one"]
        registry.remove("a")
        assert told == ["+a", "-a"]
        assert not registry.has("a") and registry.get_all() == []
        registry.add("a")
        registry.remove("a")
        assert told == ["+a", "-a"] * 2

    async def test_the_count_does_not_fall_below_zero(self, registry: StateRegistry) -> None:
        registry.remove("a")
        registry.add("a")
        assert registry.has("a")
        registry.remove("a")
        registry.remove("a")
        registry.add("a")
        assert registry.has("a")
        registry.remove("a")
        assert not registry.has("a")

    async def test_callbacks_see_the_new_state_and_come_in_order(self, registry: StateRegistry) -> None:
        told: list[tuple[int, str, bool]] = []
        for number in range(3):
            registry.on_add(lambda name, number=number: told.append((number, name, registry.has(name))))  # type: ignore[misc]
            registry.on_remove(lambda name, number=number: told.append((number, name, registry.has(name))))  # type: ignore[misc]
        registry.add("a")
        registry.remove("a")
        assert told == [(n, "a", True) for n in range(3)] + [(n, "a", False) for n in range(3)]

    async def test_a_callback_that_fails_stops_nobody(self, registry: StateRegistry) -> None:
        told: list[str] = []

        def fail(name: str) -> None:
            raise RuntimeError("on purpose")

        registry.on_add(fail)
        registry.on_add(told.append)
        registry.on_remove(fail)
        registry.on_remove(told.append)
        registry.add("a")
        registry.remove("a")
        assert told == ["a", "a"] and not registry.has("a")

    async def test_a_callback_may_change_the_registry(self, registry: StateRegistry) -> None:
        registry.on_add(lambda name: registry.add("b") if name == "a" else None)
        registry.on_remove(lambda name: registry.remove("b") if name == "a" else None)
        registry.add("a")
        assert sorted(registry.get_all()) == ["a", "b"]
        registry.remove("a")
        assert registry.get_all() == []

    async def test_names_do_not_meet(self, registry: StateRegistry) -> None:
        for name in NAMES:
            registry.add(name)
        assert sorted(registry.get_all()) == sorted(NAMES)
        for index, name in enumerate(NAMES):
            registry.remove(name)
            assert not registry.has(name)
            assert len(registry.get_all()) == len(NAMES) - index - 1

    async def test_random_changes_agree_with_a_counter(self, registry: StateRegistry) -> None:
        rng = random.Random(4)
        counts: Counter[str] = Counter()
        names: set[str] = set()
        registry.on_add(names.add)
        registry.on_remove(names.remove)
        for _ in range(3000):
            name = rng.choice("abcdefgh")
            if rng.random() < 0.5:
                registry.add(name)
                counts[name] += 1
            else:
                registry.remove(name)
                counts[name] = max(counts[name] - 1, 0)
            assert registry.has(name) is (counts[name] > 0)
            assert names == {name for name, count in counts.items() if count}
        assert sorted(registry.get_all()) == sorted(names)
