// The context window as a bar. Figures and sentences come from the kernel.

class WindowBar {
  constructor() {
    this.bar = h("div", { class: "bar", role: "img" });
    this.figures = h("div", { class: "figures" });
    this.forecast = h("div", { class: "forecast", "aria-live": "polite" });
    this.node = h("div", { class: "window", hidden: true }, this.bar, this.figures, this.forecast);
  }

  show(window) {
    this.node.hidden = !window.figures && !window.error;
    let turns = 0;
    this.bar.replaceChildren(
      ...window.segments.map(([kind, tokens, label]) => {
        if (kind === "turn") turns += 1;
        const other = kind === "turn" && turns % 2 === 0 ? " other" : "";
        const part = h("div", { class: `part ${kind}${other}`, title: `${label}: ${tokens.toLocaleString("en")} tokens` });
        part.style.flexGrow = tokens;
        return part;
      }),
    );
    const words = window.legend.map(([, name, tokens]) => `${name} ${tokens.toLocaleString("en")}`);
    this.bar.setAttribute("aria-label", `Context window: ${window.figures}. ${words.join(", ")}`);
    this.bar.hidden = !window.segments.length;
    this.figures.replaceChildren(
      ...(window.figures ? [h("span", { class: "total" }, window.figures)] : []),
      ...window.legend.map(([kind, name, tokens]) =>
        h("span", {}, h("i", { class: `swatch ${kind}` }), `${name} ${tokens.toLocaleString("en")}`),
      ),
    );
    this.forecast.textContent = window.error || window.forecast;
    this.forecast.classList.toggle("wrong", Boolean(window.error));
  }
}
