"""Remote procedure calls on the wire (events-rpc-presence-listen.md section 3)."""

import pytest
from wire import Users, auth_request, serve

from dsfast._core.protocol import AuthAction, Message, RpcAction, Topic

loops = ["uvloop"]

R = Topic.RPC
SHORT = {"rpc": {"ackTimeout": 60, "responseTimeout": 120}}
LONG = {"rpc": {"ackTimeout": 60_000, "responseTimeout": 60_000}}


async def provide(client, *names):
    client.message(R, RpcAction.PROVIDE, names=list(names), correlation_id="p")
    await client.expect(R, RpcAction.PROVIDE, correlation_id="p", is_ack=True)


async def unprovide(client, *names):
    client.message(R, RpcAction.UNPROVIDE, names=list(names), correlation_id="p")
    await client.expect(R, RpcAction.UNPROVIDE, correlation_id="p", is_ack=True)


def request(client, correlation="c1", name="add", data=b'{"a":1}', **fields):
    client.message(R, RpcAction.REQUEST, name=name, correlation_id=correlation, data=data, **fields)


def answer(client, action, correlation="c1", name="add", data=None):
    client.message(R, action, name=name, correlation_id=correlation, data=data)


async def invalid_id(client, action, correlation="c1", name="add"):
    """The answer to whoever answered a call that is not open for it."""
    await client.expect(
        R,
        RpcAction.INVALID_RPC_CORRELATION_ID,
        original_action=action,
        name=name,
        correlation_id=correlation,
        is_error=True,
    )


def open_calls(s):
    return s.router.handlers[R].open_calls


# --- one call ---------------------------------------------------------------------------


@pytest.mark.parametrize("accepts", [True, False])
@pytest.mark.parametrize(
    ("action", "data"),
    [
        (RpcAction.RESPONSE, b"3"),
        (RpcAction.RESPONSE, b"null"),
        (RpcAction.RESPONSE, None),
        (RpcAction.REQUEST_ERROR, b'"no"'),
    ],
)
async def test_a_call(accepts, action, data):
    async with serve() as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST, name="add", correlation_id="c1", data=b'{"a":1}')
        if accepts:
            answer(provider, RpcAction.ACCEPT)
            await requestor.expect(R, RpcAction.ACCEPT, name="add", correlation_id="c1")
        answer(provider, action, data=data)
        await requestor.expect(R, action, name="add", correlation_id="c1", data=data)
        assert open_calls(s) == 0
        await provider.fence()
        await requestor.fence()


async def test_the_bytes_of_a_call():
    async with serve() as s:
        requestor, provider = await s.login("r"), await s.login("p")
        provider.send(bytes.fromhex("0e10061a0a08081a01303203616464"))
        assert await provider.payload() == bytes.fromhex("0b10061a0708081a01302801")
        call = bytes.fromhex(
            "3010061a2c0802120d7b2261223a312c2262223a327d1a146d777574716a6a332d32626c77746331327337733a03616464"
        )
        requestor.send(call)
        assert await provider.payload() == call
        for message in (
            "2110061a1d08041a146d777574716a6a332d32626c77746331327337733a03616464",
            "2410061a2008051201331a146d777574716a6a332d32626c77746331327337733a03616464",
        ):
            provider.send(bytes.fromhex(message))
            assert await requestor.payload() == bytes.fromhex(message)
        call = bytes.fromhex("2010061a1c08021a136d777574716b30332d786b38776239707964633a0372656a")
        requestor.send(call)
        answer_ = call.replace(b"\x08\x02", b"\x08\x64", 1)
        assert await requestor.payload() == answer_


async def test_a_call_without_data_stays_without():
    async with serve() as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor, data=None)
        await provider.expect(R, RpcAction.REQUEST, name="add", correlation_id="c1")


async def test_only_known_fields_are_passed_on():
    """``requestorName`` and ``requestorData`` of a client would be a lie about who asks."""
    async with serve() as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(
            requestor,
            requestor_name="admin",
            requestor_data='{"role":"admin"}',
            names=["x"],
            is_ack=True,
            is_error=True,
            original_action=5,
        )
        await provider.expect(R, RpcAction.REQUEST, name="add", correlation_id="c1", data=b'{"a":1}')
        provider.message(
            R,
            RpcAction.RESPONSE,
            name="add",
            correlation_id="c1",
            data=b"3",
            is_error=True,
            is_ack=True,
            names=["x"],
            requestor_name="x",
        )
        await requestor.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"3")


@pytest.mark.parametrize("name", [True, False])
@pytest.mark.parametrize("data", [True, False])
async def test_the_provider_is_told_who_asks_if_configured(name, data):
    config = {"rpc": {"provideRequestorName": name, "provideRequestorData": data}}
    async with serve(config, authentication=Users) as s:
        provider = await s.login("p")
        await provide(provider, "add")
        for client_data in (b'{"a":1}', b"null", None):
            requestor = await s.challenged()
            extra = b"" if client_data is None else b',"clientData":' + client_data
            requestor.send(auth_request(b'{"username":"r"' + extra + b"}"))
            await requestor.expect(Topic.AUTH, AuthAction.AUTH_SUCCESSFUL)
            request(requestor, requestor_name="admin", requestor_data='"x"')
            fields = {"requestor_name": "r"} if name else {}
            if data:
                fields["requestor_data"] = (client_data or b"null").decode()
            await provider.expect(
                R, RpcAction.REQUEST, name="add", correlation_id="c1", data=b'{"a":1}', **fields
            )
            answer(provider, RpcAction.REJECT)
            await requestor.expect(R, RpcAction.NO_RPC_PROVIDER, name="add", correlation_id="c1")


async def test_nobody_provides():
    async with serve() as s:
        requestor, provider = await s.login("r"), await s.login("p")
        request(requestor)
        await requestor.expect(R, RpcAction.NO_RPC_PROVIDER, name="add", correlation_id="c1")
        await provide(provider, "add")
        await unprovide(provider, "add")
        request(requestor)
        await requestor.expect(R, RpcAction.NO_RPC_PROVIDER, name="add", correlation_id="c1")
        assert s.log.find("NO_RPC_PROVIDER") == ["add", "add"]


async def test_a_client_may_call_itself():
    async with serve() as s:
        client = await s.login("a")
        await provide(client, "add")
        request(client)
        await client.expect(R, RpcAction.REQUEST)
        answer(client, RpcAction.ACCEPT)
        await client.expect(R, RpcAction.ACCEPT)
        answer(client, RpcAction.RESPONSE, data=b"1")
        await client.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"1")
        request(client, "c2")
        await client.expect(R, RpcAction.REQUEST)
        await client.close()
        await s.gone()
        s.assert_empty()


async def test_all_providers_are_asked_some_time():
    async with serve() as s:
        requestor = await s.login("r")
        providers = [await s.login(f"p{i}") for i in range(4)]
        for provider in providers:
            await provide(provider, "add")
        for n in range(200):
            request(requestor, f"c{n}")
        await requestor.fence()
        counts = []
        for provider in providers:
            provider.message(R, RpcAction.PROVIDE, names=[], correlation_id="end")
            count = 0
            while (await provider.receive()).action == RpcAction.REQUEST:
                count += 1
            counts.append(count)
        assert sum(counts) == 200
        assert min(counts) > 0


# --- providing --------------------------------------------------------------------------


async def test_repeated_provisions_are_told_before_the_ack():
    async with serve() as s:
        client = await s.login()
        await provide(client, "a")
        client.message(R, RpcAction.PROVIDE, names=["a", "b", "b"], correlation_id="2")
        for name in ("a", "b"):
            await client.expect(R, RpcAction.MULTIPLE_PROVIDERS, name=name, original_action=RpcAction.PROVIDE)
        await client.expect(R, RpcAction.PROVIDE, correlation_id="2", is_ack=True)
        await unprovide(client, "a", "b", "never")
        assert s.registries()["rpc"].names() == []


@pytest.mark.parametrize("action", [RpcAction.PROVIDE, RpcAction.UNPROVIDE])
async def test_no_names_are_acknowledged_and_an_empty_one_is_refused(action):
    async with serve() as s:
        client = await s.login()
        client.message(R, action, name="decoy", correlation_id="1")
        await client.expect(R, action, correlation_id="1", is_ack=True)
        client.message(R, action, names=["a", ""], correlation_id="1")
        await client.expect(
            R, RpcAction.INVALID_MESSAGE_DATA, original_action=action, correlation_id="1", is_error=True
        )
        assert s.registries()["rpc"].names() == []


@pytest.mark.parametrize(
    "action",
    [RpcAction.REQUEST, RpcAction.ACCEPT, RpcAction.RESPONSE, RpcAction.REJECT, RpcAction.REQUEST_ERROR],
)
@pytest.mark.parametrize(
    "fields",
    [
        {"correlation_id": "1"},
        {"name": "", "correlation_id": "1"},
        {"names": ["add"], "correlation_id": "1"},
        {"name": "add"},
        {"name": "add", "correlation_id": "1", "data": b"{"},
        {"name": "add", "correlation_id": "1", "data": b"\xff"},
        {"name": "add", "correlation_id": "1", "data": b""},
    ],
)
async def test_what_makes_no_sense_is_refused(action, fields):
    async with serve() as s:
        client, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        client.message(R, action, **fields)
        message = await client.expect(R, RpcAction.INVALID_MESSAGE_DATA)
        assert (message.original_action, message.is_error) == (action, True)
        await provider.fence()
        assert open_calls(s) == 0


# --- who may answer ---------------------------------------------------------------------

ANSWERS = [RpcAction.ACCEPT, RpcAction.RESPONSE, RpcAction.REJECT, RpcAction.REQUEST_ERROR]


@pytest.mark.parametrize("action", ANSWERS)
async def test_an_answer_to_no_call_is_told(action):
    async with serve() as s:
        client = await s.login()
        answer(client, action, data=b"1")
        await invalid_id(client, action)


@pytest.mark.parametrize("action", ANSWERS)
async def test_a_third_client_cannot_answer(action):
    async with serve(LONG) as s:
        requestor, provider, third = await s.login("r"), await s.login("p"), await s.login("t")
        await provide(provider, "add")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        answer(third, action, data=b'"forged"')
        await invalid_id(third, action)
        # Nor can the requestor itself.
        answer(requestor, action, data=b'"forged"')
        await invalid_id(requestor, action)
        answer(provider, RpcAction.RESPONSE, data=b"1")
        await requestor.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"1")


@pytest.mark.parametrize("action", ANSWERS)
async def test_another_provider_of_the_same_name_cannot_answer(action):
    async with serve(LONG) as s:
        requestor, one, two = await s.login("r"), await s.login("1"), await s.login("2")
        await provide(one, "add")
        request(requestor)
        await one.expect(R, RpcAction.REQUEST)
        await provide(two, "add")
        answer(two, action, data=b"1")
        await invalid_id(two, action)


@pytest.mark.parametrize("action", ANSWERS)
async def test_an_answer_under_another_name_is_no_answer(action):
    async with serve(LONG) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add", "other")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        answer(provider, action, name="other", data=b"1")
        await invalid_id(provider, action, name="other")
        await requestor.fence()


@pytest.mark.parametrize("action", ANSWERS)
async def test_a_finished_call_cannot_be_answered_again(action):
    async with serve(LONG) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        answer(provider, RpcAction.RESPONSE, data=b"1")
        answer(provider, action, data=b"2")
        await requestor.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"1")
        await invalid_id(provider, action)
        await requestor.fence()


async def test_a_second_accept():
    async with serve(LONG) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        answer(provider, RpcAction.ACCEPT)
        answer(provider, RpcAction.ACCEPT)
        await provider.expect(R, RpcAction.MULTIPLE_ACCEPT, name="add", correlation_id="c1")
        await requestor.expect(R, RpcAction.ACCEPT, name="add", correlation_id="c1")
        await requestor.fence()
        answer(provider, RpcAction.RESPONSE, data=b"1")
        await requestor.expect(R, RpcAction.RESPONSE)


async def test_the_same_id_of_two_requestors_are_two_calls():
    async with serve(LONG) as s:
        one, two, provider = await s.login("1"), await s.login("2"), await s.login("p")
        await provide(provider, "add")
        request(one, data=b"1")
        first = await provider.expect(R, RpcAction.REQUEST)
        request(two, data=b"2")
        second = await provider.expect(R, RpcAction.REQUEST)
        assert first.correlation_id == "c1"
        assert second.correlation_id != "c1"
        answer(provider, RpcAction.ACCEPT, second.correlation_id)
        await two.expect(R, RpcAction.ACCEPT, name="add", correlation_id="c1")
        answer(provider, RpcAction.RESPONSE, second.correlation_id, data=b"22")
        answer(provider, RpcAction.RESPONSE, first.correlation_id, data=b"11")
        await one.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"11")
        await two.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"22")


async def test_the_ids_made_up_for_a_provider_are_not_those_of_somebody_else():
    """A requestor may have chosen the very id that the server would make up next."""
    async with serve(LONG) as s:
        one, two, three, provider = [await s.login(name) for name in "123p"]
        await provide(provider, "add")
        for n in range(1, 6):
            request(three, f"c1-{n}", data=b"%d" % (30 + n))
        request(one, data=b"1")
        request(two, data=b"2")
        seen = {}
        for _ in range(7):
            message = await provider.expect(R, RpcAction.REQUEST)
            seen[message.correlation_id] = message.data
        assert len(seen) == 7
        for correlation, data in seen.items():
            answer(provider, RpcAction.RESPONSE, correlation, data=data)
        await one.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"1")
        await two.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"2")
        for _ in range(5):
            message = await three.expect(R, RpcAction.RESPONSE)
            assert message.data == b"3" + message.correlation_id[-1].encode()


async def test_a_second_call_with_the_id_of_an_open_one_is_refused():
    async with serve(LONG) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add", "sub")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        for name in ("add", "sub", "nobody"):
            request(requestor, name=name)
            await requestor.expect(
                R,
                RpcAction.INVALID_MESSAGE_DATA,
                original_action=RpcAction.REQUEST,
                name=name,
                correlation_id="c1",
                is_error=True,
            )
        await provider.fence()
        answer(provider, RpcAction.RESPONSE, data=b"1")
        await requestor.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"1")
        # Afterwards the id is free again.
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)


@pytest.mark.parametrize("correlation", ["", "ü€😀", "x" * 10_000, "\0", "a-1"])
async def test_any_correlation_id_is_echoed(correlation):
    async with serve() as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor, correlation)
        await provider.expect(R, RpcAction.REQUEST, name="add", correlation_id=correlation, data=b'{"a":1}')
        answer(provider, RpcAction.RESPONSE, correlation, data=b"1")
        await requestor.expect(R, RpcAction.RESPONSE, name="add", correlation_id=correlation, data=b"1")


# --- rejections and re-routing ----------------------------------------------------------


async def test_a_rejected_call_goes_to_each_other_provider_once():
    async with serve(LONG) as s:
        requestor = await s.login("r")
        providers = [await s.login(f"p{i}") for i in range(3)]
        for provider in providers:
            await provide(provider, "add")
        request(requestor)
        asked = []
        while len(asked) < 3:
            await requestor.fence()
            for provider in providers:
                provider.message(R, RpcAction.PROVIDE, correlation_id="end")
                while (message := await provider.receive()).action == RpcAction.REQUEST:
                    assert message.to_dict() == encode_request("c1").to_dict()
                    asked.append(provider)
            answer(asked[-1], RpcAction.REJECT)
            await asked[-1].fence()
        assert len(set(map(id, asked))) == 3
        await requestor.expect(R, RpcAction.NO_RPC_PROVIDER, name="add", correlation_id="c1")
        assert open_calls(s) == 0
        for provider in providers:
            answer(provider, RpcAction.RESPONSE, data=b"1")
            await invalid_id(provider, RpcAction.RESPONSE)


def encode_request(correlation):
    return Message(R, RpcAction.REQUEST, name="add", correlation_id=correlation, data=b'{"a":1}')


async def asked_first(requestor, one, two):
    """Two providers, one of which has been asked; returns them in that order."""
    await provide(one, "add")
    request(requestor)
    await one.expect(R, RpcAction.REQUEST)
    await provide(two, "add")


async def test_accept_then_reject_then_the_accept_of_the_next():
    """Upstream answers the second provider MULTIPLE_ACCEPT and lets the call run into its time limit."""
    async with serve(LONG) as s:
        requestor, one, two = await s.login("r"), await s.login("1"), await s.login("2")
        await asked_first(requestor, one, two)
        answer(one, RpcAction.ACCEPT)
        await requestor.expect(R, RpcAction.ACCEPT, name="add", correlation_id="c1")
        answer(one, RpcAction.REJECT)
        await two.expect(R, RpcAction.REQUEST)
        answer(two, RpcAction.ACCEPT)
        await two.fence()
        # The requestor knows already.
        await requestor.fence()
        # The first one's late answer is refused.
        answer(one, RpcAction.RESPONSE, data=b'"late"')
        await invalid_id(one, RpcAction.RESPONSE)
        answer(two, RpcAction.RESPONSE, data=b"2")
        await requestor.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"2")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_provider_that_leaves_before_it_accepted_is_replaced_at_once(how):
    async with serve(LONG) as s:
        requestor, one, two = await s.login("r"), await s.login("1"), await s.login("2")
        await asked_first(requestor, one, two)
        one.reset() if how == "reset" else await one.close()
        await two.expect(R, RpcAction.REQUEST, name="add", correlation_id="c1", data=b'{"a":1}')
        two.reset() if how == "reset" else await two.close()
        await requestor.expect(R, RpcAction.NO_RPC_PROVIDER, name="add", correlation_id="c1")
        assert open_calls(s) == 0


async def test_a_provider_that_leaves_after_it_accepted_keeps_the_call_to_its_time_limit():
    """It may have done its work, so that nobody else may do it again."""
    async with serve({"rpc": {"ackTimeout": 50, "responseTimeout": 150}}) as s:
        requestor, one, two = await s.login("r"), await s.login("1"), await s.login("2")
        await asked_first(requestor, one, two)
        answer(one, RpcAction.ACCEPT)
        await requestor.expect(R, RpcAction.ACCEPT)
        await one.close()
        await requestor.expect(R, RpcAction.RESPONSE_TIMEOUT, name="add", correlation_id="c1")
        await two.fence()
        assert open_calls(s) == 0


async def test_a_provider_that_withdraws_may_still_answer_what_it_was_asked():
    async with serve(LONG) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        await unprovide(provider, "add")
        answer(provider, RpcAction.RESPONSE, data=b"1")
        await requestor.expect(R, RpcAction.RESPONSE, name="add", correlation_id="c1", data=b"1")


@pytest.mark.parametrize("accepted", [True, False])
async def test_a_requestor_that_leaves_drops_its_calls_in_silence(accepted):
    async with serve(SHORT) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        if accepted:
            answer(provider, RpcAction.ACCEPT)
            await requestor.expect(R, RpcAction.ACCEPT)
        await requestor.close()
        answer(provider, RpcAction.RESPONSE, data=b"1")
        await provider.fence()
        assert open_calls(s) == 0
        await provider.close()
        await s.gone()
        s.assert_empty()


async def test_the_call_of_a_requestor_that_left_is_not_offered_to_others():
    async with serve(LONG) as s:
        requestor, one, two = await s.login("r"), await s.login("1"), await s.login("2")
        await asked_first(requestor, one, two)
        await requestor.close()
        answer(one, RpcAction.REJECT)
        await one.fence()
        await two.fence()
        assert open_calls(s) == 0


# --- time limits ------------------------------------------------------------------------


async def test_no_accept_in_time():
    async with serve(SHORT) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        await requestor.expect(R, RpcAction.ACCEPT_TIMEOUT, name="add", correlation_id="c1")
        for action in ANSWERS:
            answer(provider, action, data=b"1")
            await invalid_id(provider, action)
        assert open_calls(s) == 0
        await requestor.fence()


async def test_no_response_in_time():
    async with serve(SHORT) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)
        answer(provider, RpcAction.ACCEPT)
        await requestor.expect(R, RpcAction.ACCEPT)
        await requestor.expect(R, RpcAction.RESPONSE_TIMEOUT, name="add", correlation_id="c1")
        answer(provider, RpcAction.RESPONSE, data=b"1")
        await invalid_id(provider, RpcAction.RESPONSE)
        await requestor.fence()


async def test_the_shorter_limit_ends_a_call_whichever_it_is():
    async with serve({"rpc": {"ackTimeout": 500, "responseTimeout": 60}}) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        request(requestor)
        await requestor.expect(R, RpcAction.RESPONSE_TIMEOUT, name="add", correlation_id="c1")
        await requestor.fence()


async def test_each_provider_has_the_whole_time():
    """The first provider rejects; the second one then leaves, and the third is silent: one ACCEPT_TIMEOUT."""
    async with serve(SHORT) as s:
        requestor = await s.login("r")
        one, two, three = [await s.login(name) for name in "123"]
        await asked_first(requestor, one, two)
        answer(one, RpcAction.REJECT)
        await two.expect(R, RpcAction.REQUEST)
        await provide(three, "add")
        await two.close()
        await three.expect(R, RpcAction.REQUEST)
        await requestor.expect(R, RpcAction.ACCEPT_TIMEOUT, name="add", correlation_id="c1")
        await requestor.fence()


# --- bounds -----------------------------------------------------------------------------


async def test_the_number_of_open_calls_is_bounded():
    async with serve({"rpc": {"maxOpenCalls": 3, "ackTimeout": 60_000, "responseTimeout": 60_000}}) as s:
        requestor, provider = await s.login("r"), await s.login("p")
        await provide(provider, "add")
        for n in range(4):
            request(requestor, f"c{n}")
        message = await requestor.expect(R, RpcAction.INVALID_MESSAGE_DATA)
        assert message.correlation_id == "c3"
        for n in range(3):
            await provider.expect(R, RpcAction.REQUEST)
            answer(provider, RpcAction.RESPONSE, f"c{n}", data=b"1")
            await requestor.expect(R, RpcAction.RESPONSE)
        request(requestor)
        await provider.expect(R, RpcAction.REQUEST)


async def test_a_provider_may_ask_however_much_it_is_asked():
    """Others could otherwise keep it from making calls of its own."""
    async with serve({"rpc": {"maxOpenCalls": 3, "ackTimeout": 60_000, "responseTimeout": 60_000}}) as s:
        one, two, provider = await s.login("1"), await s.login("2"), await s.login("p")
        await provide(provider, "add")
        for client in (one, two):
            for n in range(3):
                request(client, f"c{n}")
                await provider.expect(R, RpcAction.REQUEST)
        await provide(one, "sub")
        request(provider, name="sub")
        await one.expect(R, RpcAction.REQUEST)
