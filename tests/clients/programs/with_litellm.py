"""LiteLLM. Usage: with_litellm.py URL; prints what it saw as JSON."""

import asyncio
import json
import sys

import litellm

base = {"api_base": f"{sys.argv[1]}/v1", "api_key": "none", "max_tokens": 40, "seed": 7}
base |= {"max_retries": 0, "extra_body": {"steps": 8}}
prompt = "Once upon a time"
talk = [{"role": "user", "content": prompt}]
chat = {**base, "messages": talk}
text = {**base, "prompt": prompt}

seen = {}
for provider in ("openai", "hosted_vllm"):
    model = f"{provider}/stories"
    whole = litellm.completion(model=model, **chat)
    seen[provider] = whole.choices[0].message.content
    seen[f"{provider}_usage"] = [whole.usage.prompt_tokens, whole.usage.completion_tokens]
    chunks = list(
        litellm.completion(model=model, **chat, stream=True, stream_options={"include_usage": True})
    )
    seen[f"{provider}_stream"] = "".join(c.choices[0].delta.content or "" for c in chunks)
    counts = [c.usage for c in chunks if getattr(c, "usage", None)][-1]
    seen[f"{provider}_stream_usage"] = [counts.prompt_tokens, counts.completion_tokens]
    more = [*talk, whole.choices[0].message, {"role": "user", "content": "Tom had a dog."}]
    again = litellm.completion(model=model, **{**chat, "messages": more})
    seen[f"{provider}_second_turn"] = again.choices[0].message.content

seen["acompletion"] = (
    asyncio.run(litellm.acompletion(model="openai/stories", **chat)).choices[0].message.content
)
whole = litellm.text_completion(model="text-completion-openai/stories", **text)
seen["text"] = whole.choices[0].text
pieces = litellm.text_completion(model="text-completion-openai/stories", **text, stream=True)
seen["text_stream"] = "".join(piece.choices[0].text or "" for piece in pieces)
two = litellm.text_completion(
    model="text-completion-openai/stories", **{**text, "prompt": [prompt, "Tom had a dog."]}
)
seen["texts"] = [choice.text for choice in two.choices]
told = litellm.completion(model="openai/stories", **chat, logprobs=True, top_logprobs=2)
seen["logprobs"] = len(told.choices[0].logprobs.content)
seen["errors"] = []
for wrong in ({"temperature": 9}, {"model": "openai/gpt-4"}):
    try:
        litellm.completion(**{"model": "openai/stories", **chat, **wrong})
    except Exception as error:
        seen["errors"].append([type(error).__name__, error.status_code])

print(json.dumps(seen))
