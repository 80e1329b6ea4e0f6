// Draws a comparison in the order in which it is sorted, as the service's own sheet would look.

import { oneDecimal, percent } from "./dom.js";

const GAP = 16;
const LINE = 18;
const LEAST_WIDTH = 150;

/**
 * @param sheet the service's sheet, from which the pictures are cut
 * @param rows of cells {explanation, left, top, width, height}, one row a target
 * @param reply of the comparison
 * @returns a canvas
 */
export function drawSheet(sheet, rows, reply) {
  const { width, height } = rows[0][0];
  const across = Math.max(width, LEAST_WIDTH) + GAP;
  const caption = 3 * LINE;
  const down = LINE + GAP + height + caption;
  const canvas = document.createElement("canvas");
  canvas.width = GAP + across * Math.max(...rows.map((row) => row.length));
  canvas.height = GAP + 2 * LINE + rows.length * down;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#111";
  const write = (words, left, top, font = "13px sans-serif", most = across - GAP) => {
    context.font = font;
    context.fillText(shortened(context, words, most), left, top);
  };
  write(`${reply.model} · ${reply.layer}`, GAP, GAP + LINE / 2, "13px sans-serif", canvas.width - 2 * GAP);
  rows.forEach((row, at) => {
    const top = GAP + 2 * LINE + at * down;
    const { target } = row[0].explanation;
    write(`${target.label}, ${percent(target.probability)}, class ${target.index}`, GAP, top, "bold 14px sans-serif", canvas.width - 2 * GAP);
    row.forEach((cell, column) => {
      const left = GAP + column * across;
      const { method, utility, metrics } = cell.explanation;
      context.drawImage(sheet, cell.left, cell.top, width, height, left, top + LINE / 2, width, height);
      write(method, left, top + height + 1.5 * LINE, "bold 13px sans-serif");
      write(utility, left, top + height + 2.4 * LINE);
      if (metrics) write(`ADCC ${metrics.adcc === null ? "undefined" : oneDecimal(metrics.adcc)}`, left, top + height + 3.3 * LINE);
    });
  });
  return canvas;
}

/** Words as far as they fit. */
function shortened(context, words, most) {
  if (context.measureText(words).width <= most) return words;
  let [fits, length] = [0, words.length];
  while (length - fits > 1) {
    const middle = Math.floor((fits + length) / 2);
    if (context.measureText(`${words.slice(0, middle)}…`).width <= most) fits = middle;
    else length = middle;
  }
  return `${words.slice(0, fits)}…`;
}
