// A membership as an engraved card: rosettes as on a banknote, drawn from its tier, year and number, so
// that no two look alike and each always looks the same. Nothing but SVG; the picture tells its words.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 640, HEIGHT = 400;
const EMBLEM = "M5 9a4 4 0 1 1 8 0a4 4 0 1 1-8 0ZM7 12h4v28H7zM4 40h10v3H4zM35 9a4 4 0 1 1 8 0a4 4 0 1 1-8 0ZM37 12h4v28h-4zM34 40h10v3H34z";
const STRANDS = 14, STEPS = 168; // curves of a rosette, points of a curve
// Ground at two corners, foil, what is printed in it. Words on it have a contrast of 7 and more.
const CLOTHS = [
  ["#4a0a1f", "#1a050c", "#e6c37f", "#f7e9cd"], // bordeaux and gold
  ["#10264d", "#060d1e", "#b9c9ee", "#edf2ff"], // midnight and silver
  ["#0d3b33", "#041512", "#d9c58a", "#f3edd6"], // bottle green and brass
  ["#331a4f", "#10071c", "#e2b3c8", "#faeaf2"], // aubergine and rose
  ["#3a2a17", "#140d06", "#f0b98a", "#fdeee0"], // tobacco and copper
  ["#27292e", "#0b0c0e", "#d8d8d2", "#f6f6f2"], // graphite and platinum
];

/** A row of numbers of a text, each from 0 up to 1: FNV-1a, then xorshift. */
function dice(text) {
  let state = 0x811c9dc5;
  for (const letter of text) state = Math.imul(state ^ letter.codePointAt(0), 0x01000193);
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

export const titled = (name) => name.replaceAll(/[_-]+/g, " ").replaceAll(/\b\p{L}/gu, (letter) => letter.toUpperCase());

const clothOf = (tier, year) => {
  const rest = CLOTHS.length - 1; // the first is that of the first tier, and of no other
  return tier === "genesis" ? CLOTHS[0] : CLOTHS[1 + Math.floor(dice(`${tier} ${year}`)() * rest)];
};

function draw(parent, tag, attributes, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return parent.appendChild(made);
}

/** Strands that wind round a circle between two radii, each a little further on. */
function rosette(x, y, inner, outer, petals, turn, bend) {
  const strands = [];
  for (let strand = 0; strand < STRANDS; strand++) {
    const phase = (strand / STRANDS) * 2 * Math.PI, points = [];
    for (let step = 0; step < STEPS; step++) {
      const angle = (step / STEPS) * 2 * Math.PI;
      const wave = Math.sin(petals * angle + phase) + bend * Math.sin(2 * petals * angle - phase);
      const radius = inner + ((outer - inner) * (1 + wave / (1 + bend))) / 2;
      points.push(`${(x + radius * Math.cos(angle + turn)).toFixed(1)} ${(y + radius * Math.sin(angle + turn)).toFixed(1)}`);
    }
    strands.push(`M${points.join("L")}Z`);
  }
  return strands.join("");
}

/** Waves along the foot, as of a rope that hangs from post to post. */
function rope(lines, dip) {
  return Array.from({ length: lines }, (_, line) => {
    const y = 336 + line * 3.2;
    return `M-10 ${y}Q150 ${y + dip} 320 ${y}T650 ${y}`;
  }).join("");
}

let drawn = 0;

/** The picture of one. `number`: null on a card that nobody has yet. */
export function engraved({ tier, year, number = null, of = 0, serial = "", note = "" }) {
  const [light, dark, foil, print] = clothOf(tier, year), roll = dice(`${tier} ${year} ${number}`), id = `cloth-${++drawn}`;
  const name = titled(tier), told = number === null ? `${name} ${year}` : `${name} ${year}, number ${number}${of ? ` of ${of}` : ""}`;
  const picture = document.createElementNS(SVG, "svg");
  for (const [key, value] of [["viewBox", `0 0 ${WIDTH} ${HEIGHT}`], ["role", "img"], ["aria-label", note ? `${told}, ${note}` : told]]) picture.setAttribute(key, value);
  const cloth = draw(draw(picture, "defs", {}), "linearGradient", { id, x2: 1, y2: 1 });
  draw(cloth, "stop", { "stop-color": light });
  draw(cloth, "stop", { offset: 1, "stop-color": dark });
  draw(picture, "rect", { width: WIDTH, height: HEIGHT, fill: `url(#${id})` });

  const petals = 5 + Math.floor(roll() * 9), turn = roll() * Math.PI, bend = 0.15 + roll() * 0.55;
  const lines = draw(picture, "g", { fill: "none", stroke: foil, "stroke-width": 0.7 });
  draw(lines, "path", { d: rosette(452, 186, 78, 236, petals, turn, bend), opacity: 0.3 });
  draw(lines, "path", { d: rosette(452, 186, 96, 150, petals * 2 + 1, -turn, bend), opacity: 0.55 });
  draw(lines, "path", { d: rosette(452, 186, 40, 88, 3 + Math.floor(roll() * 5), turn, 0.2), opacity: 0.4 });
  draw(lines, "path", { d: rope(7, 34 + roll() * 30), opacity: 0.45, "stroke-width": 1 });
  draw(picture, "path", { d: EMBLEM, transform: "translate(418 152) scale(1.42)", fill: foil });
  draw(picture, "path", { d: "M10 15c3 17 25 17 28 0", transform: "translate(418 152) scale(1.42)", fill: "none", stroke: foil, "stroke-width": 4, "stroke-linecap": "round" });
  draw(picture, "rect", { x: 14, y: 14, width: WIDTH - 28, height: HEIGHT - 28, rx: 16, fill: "none", stroke: foil, "stroke-opacity": 0.55 });

  const words = draw(picture, "g", { fill: print, "font-family": "Georgia, 'Iowan Old Style', serif", "aria-hidden": true });
  draw(words, "text", { x: 44, y: 70, "font-size": 25, "letter-spacing": 5, fill: foil }, name.toUpperCase());
  draw(words, "text", { x: 44, y: 100, "font-size": 19, "letter-spacing": 4 }, year);
  const figure = number === null ? "?" : String(number), size = Math.min(170, 480 / figure.length);
  const shadow = { x: 40, y: 262, "font-size": size, "letter-spacing": -4 };
  draw(words, "text", { ...shadow, x: 43, y: 265, fill: dark, opacity: 0.8 }, figure);
  draw(words, "text", shadow, figure);
  if (of) draw(words, "text", { x: 44, y: 302, "font-size": 19, "letter-spacing": 1, fill: foil }, `of ${of.toLocaleString("en")}`);
  const small = { "font-family": "ui-monospace, monospace", "font-size": 12.5, y: 378, fill: print, opacity: 0.9 };
  draw(words, "text", { ...small, x: 44 }, serial);
  draw(words, "text", { x: 596, y: 377, "font-size": 18, "text-anchor": "end", fill: foil }, "Velvetrope");
  if (note) {
    const stamp = draw(picture, "g", { transform: "rotate(-12 440 200)", "aria-hidden": true });
    draw(stamp, "rect", { x: 300, y: 152, width: 290, height: 86, rx: 10, fill: dark, "fill-opacity": 0.82, stroke: print, "stroke-width": 3 });
    draw(stamp, "text", { x: 445, y: 211, "text-anchor": "middle", "font-family": "Georgia, serif", "font-size": 44, "letter-spacing": 4, fill: print }, note.toUpperCase());
  }
  return picture;
}
