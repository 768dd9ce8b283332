// The panel: carries commands to the kernel, and draws what comes back.

const VERSION = 1;
const COUNT_AFTER_MS = 150;
const PATIENCE_MS = 4000;
const SLOW =
  "No answer yet. While a cell runs, the kernel hears of the panel only afterwards; " +
  "after a restart of the kernel, run the panel's cell again.";

class Panel {
  constructor(model, root) {
    this.model = model;
    this.refs = new Map();
    this.ref = 0;
    this.status = { activity: "busy", text: "Connecting", can_send: false, can_stop: false, model: "" };
    this.bar = new WindowBar();
    this.messages = new Messages((command, options) => this.ask(command, options));
    this.build(root);
    this.onMessage = (message) => this.take(message);
    model.on("msg:custom", this.onMessage);
    for (const message of model.get("first")) this.take(message);
    this.ask({ type: "hello" }, { quiet: true });
  }

  close() {
    try {
      this.model.send({ v: VERSION, ref: 0, type: "bye" });
    } catch {
      // the kernel has gone before
    }
    this.model.off("msg:custom", this.onMessage);
    this.messages.sizes.disconnect();
    clearTimeout(this.counting);
  }

  // --- what there is to see -----------------------------------------------------------------------------------------

  build(root) {
    this.title = h("span", { class: "title" }, "New conversation");
    this.modelName = h("span", { class: "model" });
    this.drawer = h("div", { class: "drawer", hidden: true });
    const tab = (name, words) =>
      h("button", { type: "button", "aria-expanded": "false", "data-tab": name, onclick: () => this.toggle(name) }, words);
    this.tabs = { list: tab("list", "Conversations"), system: tab("system", "System prompt"), settings: tab("settings", "Settings") };
    const fresh = h("button", { type: "button", onclick: () => this.fresh() }, "New");
    this.line = h("div", { class: "line", role: "status" });
    this.state = h("div", { class: "state", role: "status" });
    this.input = h("textarea", {
      rows: "1", placeholder: "Write a message", "aria-label": "Message: Enter sends, Shift+Enter makes a new line",
      oninput: () => this.typed(),
      onkeydown: (event) => this.key(event),
    });
    this.button = h("button", { type: "submit", class: "main" }, "Send");
    this.form = h("form", { class: "composer" }, this.input, this.button);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.status.can_stop) this.stop();
      else this.send();
    });
    this.root = h(
      "section",
      // Jupyter's own shortcuts stay out of here: "d d" while reading would delete the cell.
      { class: "llmmagic-panel", "aria-label": "Chat", "data-lm-suppress-shortcuts": "true" },
      h("header", {}, h("div", { class: "names" }, this.title, this.modelName),
        h("div", { class: "tabs" }, this.tabs.list, fresh, this.tabs.system, this.tabs.settings)),
      this.drawer, this.messages.node, this.line, this.bar.node, this.form, this.state,
    );
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.status.can_stop) {
        event.preventDefault();
        this.stop();
      }
      event.stopPropagation();
    });
    // While the panel lives, the copy for readers without a kernel is not shown beside it.
    const copy = `.${this.model.get("copy")}`;
    const hide = h("style", {}, `${copy}, .jp-OutputArea-child:has(${copy}) { display: none; }`);
    root.classList.add("llmmagic-panel-place");
    root.append(hide, this.root);
  }

  show(status) {
    const before = this.status;
    this.status = status;
    this.modelName.textContent = status.model;
    this.modelName.title = status.model;
    this.state.textContent = status.text;
    this.state.classList.toggle("wrong", ["none", "busy", "closed"].includes(status.activity));
    this.button.textContent = status.can_stop ? "Stop" : "Send";
    this.button.title = status.can_stop ? "Esc" : "Enter";
    this.button.classList.toggle("stop", status.can_stop);
    this.button.disabled = !status.can_send && !status.can_stop;
    this.root.dataset.activity = status.activity;
    if (before.can_stop && !status.can_stop && document.activeElement === this.button) this.input.focus();
  }

  say(text, level = "info") {
    this.line.replaceChildren(
      ...(text
        ? [text, h("button", { type: "button", class: "away", "aria-label": "Dismiss", onclick: () => this.say("") }, "×")]
        : []),
    );
    this.line.dataset.level = level;
  }

  // --- to and from the kernel ---------------------------------------------------------------------------------------

  /** Send a command; the error it is answered with, or "". `quiet`: whoever asks shows the error. */
  ask(command, { quiet = false } = {}) {
    const ref = (this.ref += 1);
    this.model.send({ v: VERSION, ref, ...command });
    const slow = setTimeout(() => this.say(SLOW, "warning"), PATIENCE_MS);
    return new Promise((resolve) => {
      this.refs.set(ref, (error) => {
        clearTimeout(slow);
        if (this.line.textContent.startsWith(SLOW)) this.say("");
        if (error && !quiet) this.say(error, "error");
        resolve(error);
      });
    });
  }

  take(message) {
    if (message.v !== VERSION) return this.say("This panel is of another version of llmmagic: run its cell again.", "error");
    switch (message.type) {
      case "path":
        this.talk = message.talk;
        this.title.textContent = message.talk.title;
        this.title.title = `In a cell: %llm_chat --conversation ${message.talk.name}`;
        this.tabs.system.classList.toggle("set", Boolean(message.talk.system));
        return this.messages.path(message);
      case "stream":
        return this.messages.stream(message);
      case "window":
        this.bar.show(message);
        return this.messages.seen(message);
      case "status":
        return this.show(message);
      case "sampling":
        this.settings = message.settings;
        return undefined;
      case "talks":
        this.talks = message.entries;
        if (this.tab === "list") this.open("list");
        return undefined;
      case "line":
        return this.say(message.text, message.level);
      case "answer":
        this.refs.get(message.ref)?.(message.error);
        this.refs.delete(message.ref);
    }
    return undefined;
  }

  // --- writing ------------------------------------------------------------------------------------------------------

  typed() {
    this.input.style.height = "auto";
    this.input.style.height = `${this.input.scrollHeight + 2}px`;
    clearTimeout(this.counting);
    this.counting = setTimeout(() => this.ask({ type: "draft", text: this.input.value }, { quiet: true }), COUNT_AFTER_MS);
  }

  key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    }
  }

  async send() {
    const text = this.input.value;
    if (!text.trim() || this.sending) return;
    if (!this.status.can_send) {
      if (!this.status.can_stop) this.say(this.status.text, "warning");
      return;
    }
    this.say("");
    this.sending = true;
    clearTimeout(this.counting);
    const error = await this.ask({ type: "send", text });
    this.sending = false;
    if (!error && this.input.value === text) {
      this.input.value = "";
      this.typed();
    }
  }

  stop() {
    this.ask({ type: "stop" });
  }

  async fresh() {
    if (!(await this.ask({ type: "new" }))) {
      this.toggle("");
      this.input.focus();
    }
  }

  // --- the drawer ---------------------------------------------------------------------------------------------------

  toggle(name) {
    const again = this.tab === name || !name;
    this.tab = again ? "" : name;
    for (const [each, button] of Object.entries(this.tabs)) button.setAttribute("aria-expanded", String(each === this.tab));
    this.drawer.hidden = !this.tab;
    this.drawer.replaceChildren();
    if (this.tab === "list") this.ask({ type: "list" });
    else if (this.tab) this.open(this.tab);
    else if (name) this.tabs[name].focus();
  }

  open(name) {
    const content = { list: () => this.list(), system: () => this.system(), settings: () => this.sampling() }[name]();
    this.drawer.replaceChildren(content);
    if (content.start) content.start();
    else this.drawer.querySelector("button, input")?.focus();
  }

  list() {
    if (!this.talks.length) return h("div", { class: "hint" }, "No conversations yet.");
    return h("ul", { class: "talks", onkeydown: (event) => event.key === "Escape" && this.toggle("list") },
      ...this.talks.map((entry) =>
        h("li", {}, h("button", {
          type: "button", "aria-current": entry.shown ? "true" : null,
          onclick: async () => {
            if (!(await this.ask({ type: "open", id: entry.id }))) {
              this.toggle("list");
              this.input.focus();
            }
          },
        }, h("span", { class: "when" }, entry.when), h("b", {}, entry.title), h("span", { class: "preview" }, entry.preview)))));
  }

  system() {
    return editor({
      label: "System prompt", button: "Save", text: this.talk.system,
      note: "For the whole conversation. Empty leaves it to the model's own template.",
      save: (text) => this.ask({ type: "system", text }, { quiet: true }),
      close: () => this.toggle("system"),
    });
  }

  sampling() {
    const problem = h("div", { class: "problem", role: "alert" });
    const fields = this.settings.map((each) => {
      const input = h("input", { type: "text", inputmode: "decimal", placeholder: each.default, autocomplete: "off" });
      input.value = each.value;
      return [each.name, input, h("label", { title: each.help }, h("span", {}, each.name), input, h("small", {}, each.help))];
    });
    const form = h("form", { class: "settings" }, ...fields.map(([, , label]) => label), problem,
      h("div", { class: "row" }, h("button", { type: "submit", class: "main" }, "Save"),
        h("button", { type: "button", onclick: () => this.toggle("settings") }, "Cancel")));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const values = Object.fromEntries(fields.map(([name, input]) => [name, input.value]));
      const error = await this.ask({ type: "settings", values }, { quiet: true });
      if (error) problem.textContent = error;
      else this.toggle("settings");
    });
    form.addEventListener("keydown", (event) => event.key === "Escape" && this.toggle("settings"));
    return form;
  }
}

export default {
  render({ model, el }) {
    const panel = new Panel(model, el);
    return () => panel.close();
  },
};
