// What the network said, and how good the explanation is.

import { byId, element, oneDecimal, percent, plain, seconds, signed } from "./dom.js";

// Name on the wire, name for people, whether more is better, what it says.
export const FIGURES = [
  ["adcc", "ADCC", true, "coherency, low complexity and low average drop in one"],
  ["average_drop", "Average drop", false, "how far the score falls when only the evidence is shown"],
  ["coherency", "Coherency", true, "how alike the explanation of its own evidence looks"],
  ["complexity", "Complexity", false, "how much of the picture is evidence"],
  ["increase_in_confidence", "Increase in confidence", true, "100 where the evidence alone scores higher"],
  ["average_drop_in_deletion", "Average drop in deletion", true, "how far the score falls without the evidence"],
];

/** The most probable classes as bars; `explained` is the one that is explained. */
export function showPredictions(predictions, explained, choose, isSigmoid) {
  // The two labels of a single logit are one decision.
  const isOneDecision = predictions.length === 2 && Math.abs(predictions[0].probability + predictions[1].probability - 1) < 1e-6;
  const isEachForItself = isSigmoid && !isOneDecision;
  byId("predictions-hint").textContent = isEachForItself
    ? "Labels, each for itself: their bars need not add up to 100 %. Click one to see the evidence for it."
    : "Click a class to see the evidence for it.";
  byId("other").hidden = false;
  const shown = [...predictions];
  if (explained && !shown.some(({ index }) => index === explained.index)) shown.push(explained);
  const isAlone = (label) => shown.filter((other) => other.label === label).length === 1;
  const focused = document.activeElement?.closest?.("#predictions button")?.dataset.index;
  byId("predictions").replaceChildren(
    ...shown.map((prediction) => {
      const { index, label, probability, logit } = prediction;
      const bar = element("i", { class: "bar" });
      bar.style.width = `${100 * probability}%`;
      const button = element(
        "button",
        {
          type: "button",
          "aria-pressed": String(index === explained?.index),
          "data-index": index,
          title: `class ${index}, logit ${plain(logit)}`,
          onclick: () => choose(index),
        },
        element("span", { class: "label" }, isAlone(label) ? label : `${label} (class ${index})`),
        element("span", { class: "number" }, percent(probability)),
        bar,
      );
      return element("li", {}, button);
    }),
  );
  if (focused) byId("predictions").querySelector(`[data-index="${focused}"]`)?.focus();
}

/** Takes back what was said of another picture. */
export function clearResults() {
  byId("predictions").replaceChildren();
  byId("predictions-hint").textContent = "The most probable classes appear here.";
  byId("other").hidden = true;
  byId("figures").hidden = true;
  byId("figures-hint").textContent = "Six figures, each from 0 to 100.";
  byId("facts").replaceChildren();
  byId("values").hidden = true;
}

/** The six figures, and the facts around them. */
export function showFigures(reply) {
  const [explanation] = reply.explanations;
  byId("figures-hint").textContent = "Each from 0 to 100; the arrow shows which way is good.";
  byId("figures").hidden = explanation.metrics === null;
  byId("figures").tBodies[0].replaceChildren(
    ...FIGURES.map(([name, words, more, meaning]) => {
      const value = explanation.metrics?.[name] ?? null;
      const good = more ? "more is better" : "less is better";
      const bar = element("i", { class: `meter ${more ? "up" : "down"}` });
      bar.append(element("b"));
      bar.firstChild.style.width = `${value ?? 0}%`;
      return element(
        "tr",
        {},
        element("th", { scope: "row" }, words, element("small", {}, meaning)),
        element(
          "td",
          {},
          element("span", { class: "number" }, value === null ? "undefined" : oneDecimal(value)),
          element("span", { class: "arrow", role: "img", "aria-label": good, title: good }, more ? "↑" : "↓"),
          bar,
        ),
      );
    }),
  );
  byId("facts").replaceChildren(...factsOf(reply, explanation).flatMap(([term, words]) => [
    element("dt", {}, term), element("dd", {}, words),
  ]));
  showValues(explanation);
}

function factsOf(reply, explanation) {
  const { efficiency, fidelity, hvp_norm: norm } = explanation;
  const facts = [["Utility", `${plain(explanation.utility_value)} (${explanation.utility})`]];
  if (efficiency) {
    const { attributed, available } = efficiency;
    const share = attributed !== null && available ? ` (${Math.round((100 * attributed) / available)}%)` : "";
    facts.push(["Accounted for", `${plain(attributed)} of ${plain(available)} that the game pays${share}`]);
  }
  if (fidelity) {
    const gap = fidelity.efficiency_gap === null ? "undefined" : percent(fidelity.efficiency_gap);
    facts.push(["Shapley values", `correlation ${plain(fidelity.pearson)}, efficiency gap ${gap}`]);
  }
  if (norm !== null) facts.push(["Curvature", `norm ${plain(norm)} of the Hessian-vector product`]);
  facts.push(["Cost", `${explanation.forward_passes} forward passes, ${durationOf(reply.timing_ms.total)} on ${reply.device}`]);
  facts.push(["Weights", reply.weights]);
  return facts;
}

const durationOf = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : seconds(ms / 1000));

function showValues({ attribution }) {
  const [rows, columns] = attribution?.shape ?? [0, 0];
  byId("values").hidden = rows === 0;
  const numbers = (count) => Array.from({ length: count }, (_, at) => at + 1);
  byId("values-table").replaceChildren(
    element(
      "thead", {},
      element("tr", {}, element("td"), ...numbers(columns).map((at) => element("th", { scope: "col" }, at))),
    ),
    element(
      "tbody", {},
      ...numbers(rows).map((at) =>
        element(
          "tr", {},
          element("th", { scope: "row" }, at),
          ...attribution.values[at - 1].map((value) => element("td", {}, signed(value))),
        ),
      ),
    ),
  );
}
