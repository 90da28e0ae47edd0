"""Who a caller is put through to while a conversation goes on, once, and what the record says of it."""

from __future__ import annotations

import asyncio

from signaling.call import Call, SignalingError
from voipagent.record import CallRecord
from voipagent.recording import Recording
from voipagent.transfer import Line, Switchboard


class PutThrough:
    """One call's. Every attempt is noted in `record`, at the second of `recording` at which it began."""

    def __init__(self, call: Call, record: CallRecord, recording: Recording) -> None:
        self._call, self._record, self._recording = call, record, recording
        self._line: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        self._over = self._reaching = False

    async def to(self, board: Switchboard, target: str, trunk: str = "") -> str:
        """Put the caller through: "transferred", the far end did it and leaves; "bridged", we stay in the middle.

        Raises SignalingError where nobody is reached, or too late, or before the call is answered, or meanwhile.
        """
        if not self._record.answered or self._line.done():
            raise SignalingError("the call is not answered yet, or put through already")
        if self._reaching:  # the far end would refuse a second REFER, and then it would be we who call
            raise SignalingError("the caller is being put through already")
        at, self._reaching = round(self._recording.seconds, 3), True
        try:
            line = await board.reach(self._call, target, trunk)
        except SignalingError as error:
            self._record.transfers.append({"at": at, "to": target, "how": "failed", "why": str(error)})
            raise
        finally:
            self._reaching = False
        how = "transferred" if line is None else "bridged"
        heard = {"consent": line.consent} if line is not None and line.consent else {}
        self._record.transfers.append({"at": at, "to": target, "how": how, "why": "", **heard})
        if line is not None and (self._over or self._line.done()):
            await line.close()
            raise SignalingError("the call is over, or put through already")
        if line is not None:
            self._line.set_result(line)
        return how

    def line(self) -> asyncio.Future[Line]:
        """Comes with whoever the caller is to talk to over us, if ever. Who waits no more may cancel it."""
        return asyncio.shield(self._line)

    async def press(self, key: str) -> None:
        """A digit of the caller's that came as signaling: for the other, if there is one."""
        if self._line.done():
            await self._line.result().press(key)

    async def close(self) -> None:
        """The call is over: the other is hung up on, and nobody is put through any more. Idempotent."""
        self._over = True
        if self._line.done():
            await self._line.result().close()
