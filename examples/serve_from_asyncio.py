"""How do I serve from asyncio? Generate in a thread, so that the event loop stays free; a stream's next text comes from one too.

python examples/serve_from_asyncio.py
"""

import asyncio

from bang import Bang

model = Bang.load("models/debian-synopsis/checkpoint.pt")
sources = ["A header-only dbus-binding leveraging C++-11.", "Fast estimators for survival analysis."]


async def main() -> None:
    for text in await asyncio.gather(*(asyncio.to_thread(model.generate, source, "nar") for source in sources)):
        print(text)
    passes = model.stream(sources[0], "semi-nar", block_size=4)
    while (text := await asyncio.to_thread(next, passes, None)) is not None:
        print("so far:", text)


asyncio.run(main())
