// Colour scales that the page offers, with nine evenly spaced colours of each for the legend; the service colours.

export const COLORMAPS = {
  jet: ["jet (the papers' own)", "#00007f #0000ff #0080ff #15ffe1 #7cff79 #e4ff12 #ff9400 #ff1d00 #7f0000"],
  turbo: ["turbo", "#30123b #466be3 #28bbeb #32f197 #a4fc3b #edcf39 #fa7d20 #d02f04 #7a0402"],
  viridis: ["viridis (even, for all eyes)", "#440154 #472c7b #3a528b #2c728e #20908c #28ae7f #5ec961 #addc30 #fde724"],
  cividis: ["cividis (even, for all eyes)", "#00224d #1a386f #434e6b #61646f #7c7b78 #9b9376 #bbad6c #dec957 #fde737"],
  inferno: ["inferno", "#000003 #200c4a #570f6d #892269 #bb3754 #e45a31 #f98e08 #f8cb34 #fcfea4"],
  magma: ["magma", "#000003 #1c1046 #50127b #822581 #b63679 #e65162 #fb8861 #fec488 #fbfcbf"],
  hot: ["hot", "#0a0000 #5e0000 #b20000 #ff0700 #ff5b00 #ffaf00 #ffff06 #ffff84 #ffffff"],
  gray: ["grey", "#000000 #202020 #404040 #606060 #808080 #a0a0a0 #c0c0c0 #e0e0e0 #ffffff"],
};

/** A scale as a CSS gradient; of others than these nothing is known here. */
export function gradient(name) {
  const colours = COLORMAPS[name]?.[1].split(" ");
  return colours ? `linear-gradient(to right, ${colours.join(", ")})` : "none";
}
