"""A transformers pipeline behind FastAPI, as both libraries' documentation shows.

    ENVIRONMENT/bin/python fastapi_server.py PORT

Environment variables: `CHECKPOINT`, `DTYPE`, `DEVICE` and `MAX_LENGTH`, as for `bento_torch.py`. A plain function as
endpoint runs in a thread of the pool, so that the server answers meanwhile.
"""

import os
import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

app = FastAPI()
classifier = pipeline(
    "text-classification",
    model=os.environ["CHECKPOINT"],
    torch_dtype=getattr(torch, os.environ.get("DTYPE", "float32")),
    device=os.environ.get("DEVICE", "cpu"),
)


class Request(BaseModel):
    """One text."""

    text: str


@app.get("/readyz")
def ready() -> dict[str, bool]:
    """Answer once the model is loaded."""
    return {"ready": True}


@app.post("/classify")
def classify(request: Request) -> dict[str, str | float]:
    """Classify one text."""
    predictions: list[dict[str, str | float]] = classifier(
        request.text, truncation=True, max_length=int(os.environ["MAX_LENGTH"])
    )
    return predictions[0]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
