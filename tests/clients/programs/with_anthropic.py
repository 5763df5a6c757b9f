"""Anthropic's SDK. Usage: with_anthropic.py URL CALLER_URL; prints what it saw as JSON."""

import json
import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
talk = [{"role": "user", "content": "Once upon a time"}]
asked = {"model": "stories", "messages": talk, "max_tokens": 40}
extra = {"steps": 8, "seed": 7}
blocks = {**extra, "sampler": "topk", "mixing_ratio": 0, "block_length": 10}

seen = {}
answer = client.messages.create(**asked, system="You tell stories.", extra_body=extra)
seen["text"] = answer.content[0].text
seen["stop"] = [answer.stop_reason, answer.stop_sequence]
seen["usage"] = [answer.usage.input_tokens, answer.usage.output_tokens]
with client.messages.stream(**asked, extra_body=blocks) as stream:
    seen["parts"] = list(stream.text_stream)
    final = stream.get_final_message()
seen["final"] = [final.content[0].text, final.stop_reason, final.usage.output_tokens]
stop = seen["text"][10:14]
stopped = client.messages.create(**asked, stop_sequences=[stop], extra_body=extra)
seen["stopped"] = [stopped.content[0].text, stopped.stop_reason, stopped.stop_sequence == stop]
second = [*talk, {"role": "assistant", "content": answer.content}]
second += [{"role": "user", "content": "Tom had a dog."}]
turn = client.messages.create(**{**asked, "messages": second}, extra_body=extra)
seen["second_turn"] = turn.content[0].text
seen["errors"] = []
for change, more in (
    ({}, {"temperature": 9}),
    ({"model": "claude"}, {}),
    ({"max_tokens": 9999}, {}),
):
    try:
        client.messages.create(**{**asked, **change}, extra_body={**extra, **more})
    except anthropic.APIStatusError as error:
        kind = error.body["error"]["type"]
        seen["errors"].append([type(error).__name__, error.status_code, kind])

caller = anthropic.Anthropic(base_url=sys.argv[2], api_key="none", max_retries=0)
said = json.loads(sys.argv[3])
tool = {"name": "add", "description": "a + b", "input_schema": {"type": "object"}}
wanted = {"model": "caller", "messages": talk, "max_tokens": 1, "tools": [tool]}
with caller.messages.stream(**wanted, extra_body={"steps": 2, **said["call"]}) as stream:
    made = stream.get_final_message()
use = next(block for block in made.content if block.type == "tool_use")
seen["use"] = [made.stop_reason, use.name, use.input]
result = {"type": "tool_result", "tool_use_id": use.id, "content": "5"}
told = [*talk, {"role": "assistant", "content": made.content}]
told += [{"role": "user", "content": [result]}]
last = caller.messages.create(
    **{**wanted, "messages": told}, extra_body={"steps": 2, **said["answer"]}
)
seen["answer"] = last.content[0].text

print(json.dumps(seen))
