"""The magics: parse a line or cell, call the session, draw its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments

from llmmagic.magics.arguments import check_variable, parse_line, parse_options_then_text
from llmmagic.magics.errors import MagicUsageError, one_line_errors
from llmmagic.magics.held import Held
from llmmagic.magics.screens.detect import detect
from llmmagic.magics.unseen import UnseenCells

if TYPE_CHECKING:
    from llmmagic.core.session import Session
    from llmmagic.magics.screens.base import FrontEnd

# What is drawn is over by then more often than not; a bar that flashes up helps no one.
_BAR_AFTER_S = 0.3


@magics_class
class LLMMagics(Magics):  # type: ignore[misc]  # IPython is not typed here
    """Load, train and chat; one session for each shell."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._held = Held(lambda text: self.front_end.say(text))
        self._unseen = UnseenCells(shell)

    @property
    def session(self) -> Session:
        """The session of this shell, made on first use."""
        return self._held.session

    @property
    def front_end(self) -> FrontEnd:
        """Where to show things; looked up each time, because standard output may be redirected for a while."""
        return detect(self.shell)

    def close(self) -> None:
        """Free the session."""
        self._unseen.remove()
        self._held.close()

    # --- the model ------------------------------------------------------------------------------------------------

    @magic_arguments()
    @argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="",
        help="Hub id (org/name or org/name@revision), a folder, a .gguf file, 'demo' (a small real model) or "
        "'tiny-random' (for tests); with --base-url a name of the server, or none for its first.",
    )
    @argument(
        "--quantization",
        metavar="FORMAT",
        default="auto",
        help="Weight format: nf4, fp4, int8, none, or auto (default): NF4 wherever it runs.",
    )
    @argument(
        "--dtype",
        metavar="TYPE",
        default="auto",
        help="What is computed in: float32, bfloat16, float16, or auto (default): what is fast on this hardware.",
    )
    @argument("--adapter", metavar="PATH", help="Folder or Hub id of a LoRA adapter to put on top.")
    @argument("--device", metavar="DEVICE", default="auto", help="auto (default), cpu, cuda, cuda:N or mps.")
    @argument(
        "--engine",
        metavar="ENGINE",
        default="auto",
        help="transformers can train; llama.cpp only chats, many times faster on a CPU; openai leaves it to a server; "
        "auto (default): transformers.",
    )
    @argument("--base-url", metavar="URL", help="An OpenAI-compatible server (vLLM, llama-server, ...) to chat with.")
    @argument(
        "--key-over-http",
        action="store_true",
        help="Send the server's key (LLMMAGIC_API_KEY, or of the keyring) unencrypted to another machine.",
    )
    @argument(
        "--gguf-type",
        metavar="TYPE",
        default="auto",
        help="For llama.cpp, what the weights are converted to: q8_0, q4_0, f16, bf16, f32, or auto (default): q8_0, "
        "or q4_0 where memory holds no more.",
    )
    @argument(
        "--dense-copy",
        metavar="WHEN",
        default="auto",
        help="4-bit weights on a CPU: keep a dequantised copy, for the same numbers faster: on, off, or auto "
        "(default): where memory allows.",
    )
    @argument("--revision", metavar="REV", help="Branch, tag or commit on the Hub.")
    @argument("--max-context", metavar="N", type=int, help="Upper limit of the context window, in tokens.")
    @argument(
        "--trust-remote-code",
        action="store_true",
        help="Let the model's repository run its own Python code on this machine.",
    )
    @argument("--force", action="store_true", help="Load anew even if exactly this is loaded already.")
    @no_var_expand
    @line_magic
    @one_line_errors
    def llm_load(self, line: str) -> None:
        """Load a language model, in place of the one that is loaded.

        The old model stays until the new one is ready. Running the same line again does nothing.

        Examples::

            %llm_load demo
            %llm_load HuggingFaceTB/SmolLM2-1.7B-Instruct --quantization nf4
            %llm_load ./my-model --adapter results/medical
            %llm_load --base-url http://127.0.0.1:8000/v1
        """
        from llmmagic.magics.follow import follow
        from llmmagic.magics.views.load import LoadView

        settings = vars(parse_line(self.llm_load, line))
        view = LoadView(settings["model"] or settings["base_url"] or "", loaded_before=self.session.info)
        operation = self.session.load(settings.pop("model"), **settings)
        follow(operation, view, self.front_end.card_screen(), delay_s=_BAR_AFTER_S)

    @no_var_expand
    @line_magic
    @one_line_errors
    def llm_unload(self, line: str) -> None:
        """Let the model go and free its memory. Conversations stay.

        Usage: %llm_unload
        """
        _takes_nothing("llm_unload", line)
        info = self.session.info
        if info is None:
            self.front_end.say("No model is loaded.")
            return
        self.session.unload()
        self.front_end.say(f"Unloaded {info.model_id}.")

    @magic_arguments()
    @argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="Where to save it: a folder, or a .gguf file; named after the adapter if not given.",
    )
    @argument(
        "--format",
        metavar="FORMAT",
        default="adapter",
        help="adapter (default): the LoRA adapter alone. merged: a whole model, the adapter merged in. gguf: the same "
        "as one file for llama.cpp, LM Studio and Ollama, with a Modelfile beside it.",
    )
    @argument(
        "--gguf-type", metavar="TYPE", default="auto", help="Of the GGUF file: q8_0 (default), q4_0, f16, bf16 or f32."
    )
    @argument("--name", metavar="NAME", help="Which adapter; the active one if not given.")
    @no_var_expand
    @line_magic
    @one_line_errors
    def llm_save(self, line: str) -> None:
        """Save what was trained: the adapter, a whole model, or a GGUF file.

        It can be loaded again with ``%llm_load PATH``, and by other programs.

        Examples::

            %llm_save my-adapter
            %llm_save my-model --format merged
            %llm_save my-model.gguf --format gguf
        """
        from llmmagic.magics.saving import save

        save(self.session, self.front_end, parse_line(self.llm_save, line))

    @no_var_expand
    @line_magic
    @one_line_errors
    def llm_status(self, line: str) -> None:
        """Show what is loaded, the memory in use, and the conversations.

        Usage: %llm_status
        """
        from llmmagic.magics.views.status import status_card

        _takes_nothing("llm_status", line)
        self.front_end.show(status_card(self.session.status()))

    # --- training -------------------------------------------------------------------------------------------------

    @magic_arguments()
    @argument("source", metavar="SRC", help="A variable of the notebook, a file, a folder, or a Hub id.")
    @argument("--split", metavar="SPLIT", help="Split of a Hub data set, slices included: train[:1000].")
    @argument("--map", metavar="COLUMN=PART", help="What columns mean: complaint=prompt,advice=completion.")
    @argument("--rows", metavar="N", type=int, default=2, help="How many rows to show token by token (default: 2).")
    @argument(
        "--recipe", metavar="RECIPE", default="default", help="Recipe whose settings are used: default, tutorial."
    )
    @argument("--allow", metavar="FINDING", help="Findings that do not stop the training; several with commas.")
    @argument("-o", "--output", metavar="VAR", help="Store the report in this variable.")
    @no_var_expand
    @line_cell_magic
    @one_line_errors
    def llm_data(self, line: str, cell: str = "") -> None:
        """Look at training data as the loaded model will see it, before anything is trained.

        Shows how the columns are read, some rows token by token (trained on, masked, cut off, special), and everything
        that is known to go wrong. A body, if there is one, holds the settings of the training cell, such as
        ``max_length``. The training that follows on the same data does not tokenise it again.

        Examples::

            %llm_data medical.jsonl
            %llm_data rows.csv --map complaint=prompt,advice=completion --rows 3
        """
        from llmmagic.magics.data import inspect

        settings = parse_line(self.llm_data, line)
        variable = None if settings.output is None else check_variable(settings.output)
        report = inspect(self.session, self.front_end, settings, cell, self.shell.user_ns)
        if variable is not None and report is not None:
            self.shell.user_ns[variable] = report

    @magic_arguments()
    @argument("name", metavar="NAME", nargs="?", help="Name of the adapter (default: adapter).")
    @argument(
        "--data",
        metavar="SRC",
        help="A variable of the notebook (DataFrame, Dataset, list), a file (.jsonl .json .csv .parquet .txt), a "
        "folder, or a Hub id; looked for in this order. 'feedback' is what was rated, regenerated or answered better "
        "in chats, 'conversations[:ID,..]' are chats as a whole.",
    )
    @argument(
        "--method",
        metavar="METHOD",
        help="sft (default) learns given answers, pretrain raw text, dpo preferred answers, kto answers rated good or "
        "bad, grpo its own answers by reward functions.",
    )
    @argument(
        "--reward",
        metavar="NAME",
        help="For grpo: functions of the notebook (or FILE.py:NAME) that give each answer a number; with commas.",
    )
    @argument("--eval-data", metavar="SRC", help="Held-out rows: the loss on them is taken before and after.")
    @argument("--split", metavar="SPLIT", help="Split of a Hub data set, slices included: train[:1000].")
    @argument(
        "--recipe",
        metavar="RECIPE",
        help="'tutorial' is the classic setting of the 2023 Llama-2 tutorials; the default is a better one.",
    )
    @argument(
        "--map",
        metavar="COLUMN=PART",
        help="What columns mean, where their names do not say it: complaint=prompt,advice=completion.",
    )
    @argument("--allow", metavar="FINDING", help="Train although this was found in the data; several with commas.")
    @argument(
        "--resume",
        action="store_true",
        help="Go on from the last checkpoint of the run of this name that was stopped or died.",
    )
    @argument(
        "--processes",
        metavar="N",
        type=int,
        default=1,
        help="Train in N processes, started through accelerate: each takes a GPU of its own where there are any.",
    )
    @argument(
        "--save",
        metavar="FILE",
        help="Write line and body as a run file for python -m llmmagic.train, and do not train.",
    )
    @argument(
        "--sample",
        metavar="PROMPT",
        action="append",
        help="A prompt that is answered before, during and after the training; may be given several times.",
    )
    @argument("--sample-conversation", metavar="NAME", help="The same with the last question of a conversation.")
    @argument("--sample-steps", metavar="N", type=int, help="Every how many steps (default: four times in the run).")
    @argument("--dry-run", action="store_true", help="Do everything up to the first step: check data and settings.")
    @argument("-o", "--output", metavar="VAR", help="Store the summary in this variable.")
    @no_var_expand
    @line_cell_magic
    @one_line_errors
    def llm_train(self, line: str, cell: str = "") -> None:
        """Train a LoRA adapter on the loaded model, and chat with it from then on.

        The body is YAML: any key of TRL's config of the method, and under ``lora:`` any key of PEFT's LoraConfig. It
        may be empty. ``peft: none`` trains all weights instead of an adapter.
        An interrupt stops at the next step and keeps the adapter.

        Examples::

            %%llm_train medical --data medical.jsonl --eval-data held-out.jsonl
            max_steps: 100
            learning_rate: 2e-4
            lora:
              r: 16
        """
        from llmmagic.magics.training import train

        settings = parse_line(self.llm_train, line)
        variable = None if settings.output is None else check_variable(settings.output)
        summary = train(self.session, self.front_end, settings, cell, self.shell.user_ns)
        if variable is not None and summary is not None:
            self.shell.user_ns[variable] = summary

    @magic_arguments()
    @argument("--data", metavar="SRC", help="Held-out rows: like --data of %%llm_train.")
    @argument("--split", metavar="SPLIT", help="Split of a Hub data set, slices included: test[:200].")
    @argument("--map", metavar="COLUMN=PART", help="What columns mean, where their names do not say it.")
    @argument("--limit", metavar="N", type=int, help="Only the first N rows, or N examples of each task.")
    @argument("--tasks", metavar="NAMES", help="Tasks of lm-eval-harness instead (extra 'eval'); several with commas.")
    @argument("-o", "--output", metavar="VAR", help="Store the figures in this variable.")
    @no_var_expand
    @line_magic
    @one_line_errors
    def llm_eval(self, line: str) -> None:
        """Measure the model on held-out rows: loss, perplexity and token accuracy, with the adapter and without.

        Examples::

            %llm_eval --data held-out.jsonl
            %llm_eval --tasks arc_easy,hellaswag --limit 100
        """
        from llmmagic.magics.evaluation import evaluate

        settings = parse_line(self.llm_eval, line)
        variable = None if settings.output is None else check_variable(settings.output)
        result = evaluate(self.session, self.front_end, settings, self.shell.user_ns)
        if variable is not None and result is not None:
            self.shell.user_ns[variable] = result

    # --- chat -----------------------------------------------------------------------------------------------------

    @magic_arguments()
    @argument("--system", metavar="TEXT", help='System prompt from now on; "" is explicitly none.')
    @argument("--conversation", metavar="NAME", default="default", help="Which conversation; each has its own history.")
    @argument("--new", action="store_true", help="Start the conversation anew.")
    @argument("--max-new-tokens", metavar="N", type=int, help="Most tokens of the reply (default: 512).")
    @argument("--temperature", metavar="T", type=float, help="0 always takes the most likely token.")
    @argument("--seed", metavar="S", type=int, help="The same seed gives the same reply.")
    @argument(
        "--engine",
        metavar="ENGINE",
        default="auto",
        help="Who answers: llama.cpp converts what is loaded and trained, once, and is many times faster on a CPU; "
        "auto (default): the one that it was loaded with.",
    )
    @argument("--no-stream", action="store_true", help="Show the reply when it is complete.")
    @argument("--raw", action="store_true", help="Show the text as the model wrote it, not rendered Markdown.")
    @argument("--fill", action="store_true", help="Replace {variable} in the prompt; {{ and }} are plain braces.")
    @argument("-o", "--output", metavar="VAR", help="Store the reply in this variable: a string with figures.")
    @no_var_expand
    @line_cell_magic
    @one_line_errors
    def llm_chat(self, line: str, cell: str | None = None) -> None:
        """Say something to the model.

        Options come first; the rest of the line, and of the cell, is the prompt, exactly as written: quotes, braces,
        dollar signs and backslashes need no care. A prompt that begins with ``--`` goes after a ``--`` of its own.

        Without a prompt it opens the chat panel: the conversation goes on in it while no cell runs, with the context
        window in view. Cells with the same ``--conversation`` share it, and ``llmchat`` finds it again.

        Examples::

            %llm_chat
            %llm_chat What is bursitis?
            %llm_chat --conversation fonts --temperature 0 Describe Montserrat.

            %%llm_chat --system "You are a careful physician."
            A patient reports "pain {right} shoulder".
            What should I ask next?
        """
        from llmmagic.magics.chat import chat

        settings, text = parse_options_then_text(self.llm_chat, line)
        prompt = text if cell is None else "\n".join(part for part in (text, cell.strip("\n")) if part.strip())
        attended = self.front_end.attended
        if cell is None and not prompt.strip() and attended is not None:
            from llmmagic.magics.panel.open import open_panel

            open_panel(self._held.hub, settings, attended=attended)
            return
        if not prompt.strip():
            raise MagicUsageError(
                "There is no prompt.",
                hint="%llm_chat PROMPT, or %%llm_chat with the prompt below; %llm_chat? tells more.",
            )
        variable = None if settings.output is None else check_variable(settings.output)
        if self._unseen.running and attended is None:
            self.front_end.say(f"You: {prompt}")
        reply = chat(self.session, self.front_end, settings, prompt, self.shell.user_ns)
        if variable is not None:
            self.shell.user_ns[variable] = reply


def _takes_nothing(name: str, line: str) -> None:
    if line.strip():
        raise MagicUsageError(f"%{name} takes no arguments, got {line.strip()!r}.")
