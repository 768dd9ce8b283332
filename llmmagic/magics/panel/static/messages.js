// The messages: drawn once each, and again only when the kernel says that one has changed.

const WORDS = {
  copy: ["copy", "Copy the text"],
  edit: ["edit", "Say something else instead: makes a branch"],
  pin: ["pin", "Keep it in the context window"],
  again: ["again", "Another reply, beside this one"],
  continue: ["continue", "Go on with this reply"],
  good: ["", "Good reply"],
  bad: ["", "Bad reply"],
  better: ["better", "Write what the reply should have been"],
};

class Messages {
  /** `ask(command)` sends a command and returns its error, or "". */
  constructor(ask) {
    this.ask = ask;
    this.views = new Map();
    this.nodes = new Map();
    this.window = { out: [], leaving: [], cut: "" };
    this.talk = null;
    this.live = "";
    this.tail = "";
    this.cut = h("div", { class: "cut", role: "separator" });
    this.welcome = h(
      "div",
      { class: "welcome" },
      "Write below and press Enter. The bar shows what of the conversation the model can see, in tokens.",
    );
    this.node = h("div", {
      class: "log", role: "log", tabindex: "0", "aria-live": "polite", "aria-label": "Conversation",
      onkeydown: (event) => this.move(event),
      onscroll: () => (this.following = this.atEnd()),
    });
    this.following = true;
    this.node.append(this.welcome);
    // Messages out of view get their real height when they are first drawn: the end stays the end.
    this.sizes = new ResizeObserver(() => this.follow());
  }

  atEnd() {
    return this.node.scrollHeight - this.node.scrollTop - this.node.clientHeight < 24;
  }

  follow() {
    if (this.following) this.node.scrollTop = this.node.scrollHeight;
  }

  /** Messages that are new or have changed, and the order of all. */
  path({ talk, ids, changed, live }) {
    if (this.talk !== talk.id) {
      this.clear();
      this.talk = talk.id;
    }
    if (live && live !== this.live) this.following = true;
    this.live = live;
    this.node.setAttribute("aria-busy", String(Boolean(live)));
    for (const view of changed) {
      this.views.set(view.id, view);
      this.draw(view);
    }
    const kept = new Set(ids);
    for (const [id, node] of this.nodes) {
      if (!kept.has(id)) {
        this.sizes.unobserve(node);
        node.remove();
        this.nodes.delete(id);
        this.views.delete(id);
      }
    }
    this.cut.remove();
    let before = null;
    for (const id of [...ids].reverse()) {
      const node = this.nodes.get(id);
      if (!node) continue; // older ones come later
      if (!node.parentNode || node.nextSibling !== before) this.node.insertBefore(node, before);
      before = node;
    }
    this.welcome.hidden = ids.length > 0;
    this.ids = ids;
    this.mark();
    this.follow();
  }

  clear() {
    this.sizes.disconnect();
    this.nodes.forEach((node) => node.remove());
    this.nodes.clear();
    this.views.clear();
    this.following = true;
  }

  draw(view) {
    const old = this.nodes.get(view.id);
    const focused = old?.contains(document.activeElement) ? document.activeElement.dataset.action : undefined;
    const node = h("article", { class: `message ${view.role}`, tabindex: "-1", "aria-label": view.name });
    node.append(this.head(view));
    const body = h("div", { class: "body" });
    if (view.html) body.innerHTML = view.html;
    else body.textContent = view.text;
    body.classList.toggle("plain", !view.html);
    if (view.id === this.live) {
      this.tail = "";
      body.classList.remove("plain");
      body.append(h("div", { class: "tail" }, h("span", { class: "waiting" }, "…")));
    }
    node.append(body);
    if (view.role === "assistant" && !view.text.trim() && view.id !== this.live) body.append(h("em", {}, "The reply is empty."));
    if (view.note) node.append(h("div", { class: "note" }, `— ${view.note}`));
    if (view.better) node.append(h("div", { class: "better" }, h("b", {}, "Better answer"), h("div", {}, view.better)));
    node.append(this.tools(view));
    if (old?.editing) {
      // what is being written is worth more than a fresh drawing around it
      node.append(old.editing);
      node.editing = old.editing;
      node.classList.add("open");
    }
    if (old) {
      this.sizes.unobserve(old);
      old.replaceWith(node);
    }
    this.nodes.set(view.id, node);
    this.sizes.observe(node);
    if (focused) (node.querySelector(`[data-action="${focused}"]`) || node).focus();
  }

  head(view) {
    const [number, count] = view.branch;
    const turn = (step, sign, words) =>
      h("button", { type: "button", class: "step", "aria-label": words, title: words, "data-action": `step${step}`,
        onclick: () => this.ask({ type: "branch", id: view.id, step }) }, sign);
    return h(
      "div",
      { class: "head" },
      h("b", {}, view.name),
      count > 1
        ? h("span", { class: "branch" }, turn(-1, "‹", "Previous branch"), `${number}/${count}`, turn(1, "›", "Next branch"))
        : null,
      view.pinned ? h("span", { class: "badge pinned" }, "pinned") : null,
      h("span", { class: "badge state" }),
      h("span", { class: "facts" }, view.facts),
    );
  }

  tools(view) {
    const on = { pin: view.pinned, good: view.rating === 1, bad: view.rating === -1 };
    return h(
      "div",
      { class: "tools" },
      ...view.actions.map((action) =>
        h(
          "button",
          {
            type: "button", title: WORDS[action][1], "aria-label": WORDS[action][1], "data-action": action,
            "aria-pressed": action in on ? String(on[action]) : null,
            onclick: (event) => this.act(action, view, event.currentTarget),
          },
          action in ICONS ? icon(action) : action === "pin" && view.pinned ? "unpin" : WORDS[action][0],
        ),
      ),
    );
  }

  async act(action, view, button) {
    const id = view.id;
    if (action === "copy") {
      await copyText(view.text, this.node);
      button.textContent = "copied";
      setTimeout(() => (button.textContent = "copy"), 1500);
    } else if (action === "pin") this.ask({ type: "pin", id });
    else if (action === "again") this.ask({ type: "regenerate", id });
    else if (action === "continue") this.ask({ type: "continue", id });
    else if (action === "good" || action === "bad") this.ask({ type: "rate", id, rating: action === "good" ? 1 : -1 });
    else if (action === "edit") {
      this.write(id, {
        label: "Edit message", button: "Send", text: view.text,
        note: "The old message stays, with all that follows it: ‹ and › go between the branches.",
        save: (text) => this.ask({ type: "edit", id, text }, { quiet: true }),
      });
    } else if (action === "better") {
      this.write(id, {
        label: "Better answer", button: "Save", text: view.better || view.text,
        note: "Kept beside the reply, for training on later. Empty takes it back.",
        save: (text) => this.ask({ type: "better", id, text }, { quiet: true }),
      });
    }
  }

  /** Open a field below a message. */
  write(id, options) {
    if (this.nodes.get(id).editing) return;
    const close = () => {
      const node = this.nodes.get(id);
      field.remove();
      if (!node) return;
      delete node.editing;
      node.classList.remove("open");
      node.focus({ preventScroll: true });
    };
    const field = editor({ ...options, close });
    const node = this.nodes.get(id);
    node.editing = field;
    node.classList.add("open");
    node.append(field);
    this.following = false; // the end of the conversation is not what is looked at now
    field.start();
    field.scrollIntoView({ block: "nearest" });
  }

  /** More of the reply that is being written. */
  stream({ id, settled, cut, add }) {
    const body = this.nodes.get(id)?.querySelector(".body");
    const tail = body?.querySelector(".tail");
    if (!tail) return;
    if (settled) {
      tail.insertAdjacentHTML("beforebegin", settled);
      this.tail = "";
    }
    this.tail = this.tail.slice(0, cut) + add;
    tail.innerHTML = this.tail;
    this.follow();
  }

  /** What the model sees of it. */
  seen(window) {
    this.window = window;
    this.mark();
  }

  mark() {
    const out = new Set(this.window.out);
    const leaving = new Set(this.window.leaving);
    let last = null;
    let visible = null;
    for (const id of this.ids || []) {
      const node = this.nodes.get(id);
      if (!node) continue;
      node.classList.toggle("out", out.has(id));
      node.classList.toggle("leaving", leaving.has(id));
      node.classList.remove("last");
      node.querySelector(".state").textContent = out.has(id)
        ? "no longer seen" : leaving.has(id) ? "drops with this send" : "";
      if (out.has(id)) last = node;
      visible = node;
    }
    visible?.classList.add("last");
    this.cut.textContent = this.window.cut;
    if (last && this.window.cut && last !== visible) {
      if (last.nextSibling !== this.cut) last.after(this.cut);
    } else this.cut.remove();
  }

  /** Arrow keys go from message to message; Tab then reaches what can be done with it. */
  move(event) {
    const step = { ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || event.target.closest("textarea, button, a")) return;
    const all = [...this.node.querySelectorAll(":scope > article")];
    if (!all.length) return;
    event.preventDefault();
    const at = all.indexOf(event.target.closest("article"));
    const next = at < 0 ? (step < 0 ? all.length - 1 : 0) : Math.min(Math.max(at + step, 0), all.length - 1);
    all[next].focus({ preventScroll: true });
    all[next].scrollIntoView({ block: "nearest" });
  }
}
