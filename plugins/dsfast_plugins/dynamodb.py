"""Storage in DynamoDB (storages.md section 8). Needs ``dsfast[dynamodb]``.

A record is an item: ``ds_id`` (its name), ``ds_version`` and ``ds_data`` (JSON text).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from dsfast.services.storage import (
    BatchStorage,
    PermanentStorageError,
    StorageClosed,
    StorageError,
    TransientStorageError,
    WriteOp,
)
from dsfast_plugins.options import Milliseconds, Options, read_options

try:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
except ModuleNotFoundError as error:
    raise ImportError(f"the dynamodb storage needs: pip install dsfast[dynamodb] ({error})") from error

if TYPE_CHECKING:
    from dsfast.config import Config
    from dsfast.services import Services

__all__ = ["DynamodbStorage"]

MAX_DELAY = 1.0
GUARD = "attribute_not_exists(ds_id) OR ds_version <= :version"

_TRANSIENT = (
    "InternalServerError", "InternalFailure", "LimitExceededException",
    "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ServiceUnavailable", "SlowDown",
    "ThrottlingException", "Throttling", "TransactionConflictException", "ResourceInUseException",
)  # fmt: skip


class DynamodbOptions(Options, frozen=True, kw_only=True):
    """See docs/plugins/storage.md."""

    region: str
    endpoint_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    table: str = "deepstream"
    create_table: bool = False
    max_in_flight: Annotated[int, Meta(ge=1, le=1000)] = 64
    write_interval: Milliseconds = 10
    command_timeout: Milliseconds = 10_000


class DynamodbStorage(BatchStorage):
    """See docs/plugins/storage.md for the options."""

    def __init__(self, options: Mapping[str, Any], services: Services, config: Config) -> None:
        super().__init__(options, services, config)
        self._options, self._warnings = read_options(DynamodbOptions, options, required=("region",))
        self.flush_interval = float(self._options.write_interval)
        self.description = f"dynamodb storage, table {self._options.table} in {self._options.region}"
        self._places = asyncio.Semaphore(self._options.max_in_flight)
        self._stack = AsyncExitStack()
        self._client: Any = None

    def init(self) -> None:
        """Report options that have no effect."""
        for warning in self._warnings:
            self.logger.warn("INVALID_CONFIG_DATA", f"dynamodb storage: {warning}")

    async def when_ready(self) -> None:
        """See to it that the table is there; waits for a service that is away and says so in the log."""
        options = self._options
        seconds = options.command_timeout / 1000
        settings = AioConfig(
            connect_timeout=seconds,
            read_timeout=seconds,
            max_pool_connections=options.max_in_flight,
            retries={"total_max_attempts": 1},  # the queue of the storage tries again
        )
        self._client = await self._stack.enter_async_context(
            get_session().create_client(
                "dynamodb",
                region_name=options.region,
                endpoint_url=options.endpoint_url,
                aws_access_key_id=options.access_key_id,
                aws_secret_access_key=options.secret_access_key,
                aws_session_token=options.session_token,
                config=settings,
            )
        )
        delay, waiting = 0.05, False
        while True:
            try:
                if await self._is_table_ready():
                    break
            except TransientStorageError as error:
                if not waiting:
                    waiting = True
                    self.logger.warn("STORAGE_ERROR", f"{error}; trying again")
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY)
        if waiting:
            self.logger.info("INFO", "dynamodb is there")

    async def _is_table_ready(self) -> bool:
        table = self._options.table
        async with self._translated() as client:
            try:
                found = await client.describe_table(TableName=table)
                return bool(found["Table"]["TableStatus"] == "ACTIVE")
            except client.exceptions.ResourceNotFoundException:
                if not self._options.create_table:
                    text = f"dynamodb: there is no table {table}; createTable: true makes it"
                    raise StorageError(text) from None
            await client.create_table(
                TableName=table,
                KeySchema=[{"AttributeName": "ds_id", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "ds_id", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        return False

    async def close(self) -> None:
        """Close all connections."""
        self._client = None
        await self._stack.aclose()

    # ---- the contract

    async def get_text(self, name: str) -> tuple[int, bytes | None]:
        """See :meth:`dsfast.services.storage.BatchStorage.get_text`."""
        async with self._translated() as client:
            found = await client.get_item(
                TableName=self._options.table, Key={"ds_id": {"S": name}}, ConsistentRead=True
            )
        item = found.get("Item")
        if item is None:
            return -1, None
        try:
            return int(item["ds_version"]["N"]), item["ds_data"]["S"].encode()
        except (KeyError, ValueError) as error:
            raise PermanentStorageError(f"dynamodb: the item of {name} is no record") from error

    async def write_batch(self, ops: Sequence[WriteOp]) -> list[Exception | None]:
        """See :meth:`dsfast.services.storage.BatchStorage.write_batch`.

        One request each: DynamoDB's batches know no conditions.
        """
        return list(await asyncio.gather(*(self._write(op) for op in ops)))

    async def _write(self, op: WriteOp) -> Exception | None:
        try:
            async with self._places, self._translated() as client:
                if op.text is None:
                    await client.delete_item(TableName=self._options.table, Key={"ds_id": {"S": op.name}})
                    return None
                version = {"N": str(op.version)}
                item = {"ds_id": {"S": op.name}, "ds_version": version, "ds_data": {"S": op.text.decode()}}
                guard: dict[str, Any] = {
                    "ConditionExpression": GUARD,
                    "ExpressionAttributeValues": {":version": version},
                }
                # The condition fails where somebody newer has won.
                with suppress(client.exceptions.ConditionalCheckFailedException):
                    await client.put_item(
                        TableName=self._options.table, Item=item, **({} if op.forced else guard)
                    )
        except StorageError as error:
            return error
        return None

    # ---- errors

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[Any]:
        """The client; errors of the driver become those of the storage contract."""
        if self._client is None:
            raise StorageClosed("the dynamodb storage is closed")
        try:
            async with asyncio.timeout(self._options.command_timeout / 1000):
                yield self._client
        except StorageError:
            raise
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            text = f"dynamodb: {error.response.get('Error', {}).get('Message') or code}"
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code == "ValidationException":
                raise PermanentStorageError(text) from error
            if code in _TRANSIENT or status >= 500:
                raise TransientStorageError(text) from error
            raise StorageError(text) from error
        except NoCredentialsError as error:
            raise StorageError(f"dynamodb: {error}") from error
        except (HTTPClientError, BotoCoreError, OSError) as error:
            raise TransientStorageError(f"dynamodb: {error or type(error).__name__}") from error
        except Exception as error:
            raise StorageError(f"dynamodb: {error!r}") from error
