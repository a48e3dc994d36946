// Elements from values: h("button", { class: "main", onclick: f, disabled: true }, "Start"). No markup from strings anywhere.

export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "srcObject" || name === "muted") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((one) => one !== undefined && one !== null && one !== false));
  return made;
}

// Changes an element's text only if it differs: screen readers and selections are left in peace.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Told to screen readers; of many words in a row the last one is what counts.
let waiting;
export function announce(text) {
  clearTimeout(waiting);
  waiting = setTimeout(() => say(document.getElementById("said"), text), 400);
}

const PATHS = {
  up: "M12 16V4m0 0 5 5m-5-5L7 9M4 16v3a1 1 0 0 0 1 1h14a1 1 0 0 0 1-1v-3",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 2v2m0 16v2M4.9 4.9l1.4 1.4m11.4 11.4 1.4 1.4M2 12h2m16 0h2M4.9 19.1l1.4-1.4M17.7 6.3l1.4-1.4",
  moon: "M20 14.5A8 8 0 0 1 9.5 4 8 8 0 1 0 20 14.5Z",
  half: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Zm0 0v18M12 8h8M12 12h9M12 16h8",
  camera: "M4 7h11a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V8a1 1 0 0 1 1-1Zm12 4 5-3v8l-5-3",
  film: "M4 5h16a1 1 0 0 1 1 1v12a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1Zm6 4 5 3-5 3V9Z",
  save: "M12 4v11m0 0 4.5-4.5M12 15l-4.5-4.5M4 19h16",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", width: "20", height: "20", "aria-hidden": "true", class: "glyph" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

// Asks before something that cannot be taken back; resolves to the form's values, or null.
export function ask({ title, text, action, fields = [], grave = false }) {
  return new Promise((resolve) => {
    const inputs = fields.map((one) => h("input", { name: one.name, value: one.value ?? "", required: true, pattern: one.pattern, autocomplete: "off" }));
    const dialog = h("dialog", { "aria-labelledby": "ask-title" },
      h("form", { method: "dialog", class: "stack" },
        h("h2", { id: "ask-title" }, title),
        h("p", {}, text),
        fields.map((one, i) => h("label", { class: "field" }, h("span", {}, one.label), inputs[i])),
        h("div", { class: "row end" },
          h("button", { type: "submit", value: "", formnovalidate: true }, "Cancel"),
          h("button", { type: "submit", value: "yes", class: grave ? "grave" : "main" }, action)),
      ));
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? Object.fromEntries(inputs.map((one) => [one.name, one.value])) : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
