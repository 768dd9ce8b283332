// Elements. Everything that comes from a model or a person goes in as text; the only HTML is that of replies, which the
// kernel has rendered from Markdown and made harmless (llmmagic/magics/markdown.py).

/** Make an element: h("button", {class: "x", onclick: f}, "text", child). */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const ICONS = {
  good: "M2 7h2.6v7H2zM6 13.2V7.4L8.6 2c1 0 1.7.8 1.5 1.8L9.6 6.4h3.2c.9 0 1.5.8 1.3 1.6l-1.1 4.8c-.2.7-.8 1.2-1.5 1.2H7.6z",
  bad: "M14 9h-2.6V2H14zM10 2.8v5.8L7.4 14c-1 0-1.7-.8-1.5-1.8l.5-2.6H3.2c-.9 0-1.5-.8-1.3-1.6L3 3.2C3.2 2.5 3.8 2 4.5 2h3.9z",
};

/** A thumb, up or down: drawn, because not every system has the character. */
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Put text on the clipboard, also where a page may not use the modern way. */
async function copyText(text, near) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "offscreen", "aria-hidden": "true" });
    area.value = text;
    near.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/**
 * A field to write in with two buttons. Ctrl+Enter saves, Esc cancels.
 * `save` gets the text and returns an error, or "" when all went well; then the field goes away.
 */
function editor({ label, note, text, button, save, close }) {
  const area = h("textarea", { "aria-label": label, rows: Math.min(12, Math.max(3, text.split("\n").length + 1)) });
  area.value = text;
  const problem = h("div", { class: "problem", role: "alert" });
  const submit = async () => {
    const error = await save(area.value);
    if (error) problem.textContent = error;
    else close();
  };
  const node = h(
    "div",
    { class: "editor" },
    area,
    note ? h("div", { class: "hint" }, note) : null,
    problem,
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "main", onclick: submit, title: "Ctrl+Enter" }, button),
      h("button", { type: "button", onclick: close, title: "Esc" }, "Cancel"),
    ),
  );
  node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      submit();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      close();
    }
  });
  node.start = () => area.focus();
  return node;
}
