// A form that asks the shop: once at a time, problems beside their fields, and at the first of them
// the focus.

/** What a form holds; what is empty is "". Passwords as they were typed, all else without spaces around. */
export function values(form) {
  const given = {};
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.type === "checkbox") given[field.name] = field.checked;
    else given[field.name] = field.type === "password" ? field.value : field.value.trim();
  }
  return given;
}

/** Writes into a form, except what somebody is about to change. */
export function fill(form, fields, isForced = true) {
  for (const [name, value] of Object.entries(fields)) {
    const field = form.elements[name];
    if (!field || (!isForced && isTouched(field))) continue;
    if (field.type === "checkbox") field.checked = field.defaultChecked = value;
    else field.value = field.defaultValue = value ?? "";
  }
}
const isTouched = (field) => field.type !== "select-one" && (field.type === "checkbox" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue);

/** Under a form: what came of it. */
export function tell(form, text, isGood = false) {
  const told = form.querySelector(".told");
  told.classList.toggle("good", isGood);
  told.textContent = text;
}

/** `act(values)` asks, and returns the answer. A refusal is shown; what else is to be said, it says. */
export function submits(form, act) {
  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    if (form.getAttribute("aria-busy") === "true") return;
    form.setAttribute("aria-busy", "true");
    clear(form);
    const reply = await act(values(form));
    form.removeAttribute("aria-busy");
    if (reply && !reply.ok) refuse(form, reply);
  });
}

function clear(form) {
  tell(form, "");
  for (const note of form.querySelectorAll(".problem")) note.remove();
  for (const field of form.querySelectorAll("[aria-invalid]")) {
    field.removeAttribute("aria-invalid");
    describe(field, (ids) => ids.filter((id) => id !== `${field.id}-problem`));
  }
}

/** Shows a refusal: its problems at their fields, its message below. */
export function refuse(form, { message, details }) {
  const wrong = [];
  for (const { field: name, problem } of details?.fields ?? []) {
    const field = form.elements[name];
    if (!field?.id) continue;
    const note = document.createElement("small");
    note.id = `${field.id}-problem`;
    note.className = "problem";
    note.textContent = problem;
    field.after(note);
    field.setAttribute("aria-invalid", "true");
    describe(field, (ids) => [...ids, note.id]);
    wrong.push(field);
  }
  tell(form, message);
  wrong[0]?.focus();
}

function describe(field, change) {
  const ids = change((field.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean));
  if (ids.length) field.setAttribute("aria-describedby", ids.join(" "));
  else field.removeAttribute("aria-describedby");
}
