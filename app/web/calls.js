// The call that makes what is on the screen, as text for a shell or for Python.

const KEY = "CAM_API_KEY";
const PICTURES = { explain: "overlay.png", compare: "sheet.png" };

/** A word for a POSIX shell. */
export function shellQuoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A string literal of Python; those of JSON are. */
export const pythonQuoted = (text) => JSON.stringify(text);

/** What curl takes for `-F image=`: quoted, since a name may hold a comma or a semicolon. */
function formFile(path, name) {
  const quoted = (value) => (/^[\w./-]+$/.test(value) ? value : `"${value.replace(/["\\]/g, "\\$&")}"`);
  return `image=@${quoted(path)}${name ? `;filename=${quoted(name)}` : ""}`;
}

/**
 * The call for a shell.
 *
 * @param kind "explain" or "compare"
 * @param base address of the service, with a slash at its end
 * @param picture {name, source: "file" | "pasted" | "example", path: of an example, below the base}
 * @param fields [name, text] pairs
 * @param hasKey whether the service asks for an API key
 */
export function curlCall(kind, base, picture, fields, hasKey) {
  const isExample = picture.source === "example";
  const lines = [
    `curl --silent --show-error --fail-with-body ${shellQuoted(`${base}v1/${kind}`)}`,
    `--header ${shellQuoted("Accept: image/png")}`,
    ...(hasKey ? [`--header "Authorization: Bearer $${KEY}"`] : []),
    `--form ${shellQuoted(isExample ? formFile("-", picture.name) : formFile(picture.name))}`,
    ...fields.map(([name, value]) => `--form-string ${shellQuoted(`${name}=${value}`)}`),
    `--output ${PICTURES[kind]}`,
  ];
  const call = lines.join(" \\\n  ");
  return isExample ? `curl --silent --show-error ${shellQuoted(base + picture.path)} |\n${call}` : call;
}

/** The call for Python with httpx; arguments as for `curlCall`. */
export function pythonCall(kind, base, picture, fields, hasKey) {
  const isExample = picture.source === "example";
  const [read, imports] = isExample
    ? [`httpx.get(${pythonQuoted(base + picture.path)}).raise_for_status().content`, ""]
    : [`Path(${pythonQuoted(picture.name)}).read_bytes()`, "\nfrom pathlib import Path\n"];
  const data = new Map();
  for (const [name, value] of fields) data.set(name, [...(data.get(name) ?? []), value]);
  const entries = [...data].map(([name, values]) => {
    const quoted = values.map(pythonQuoted);
    return `        ${pythonQuoted(name)}: ${quoted.length > 1 ? `[${quoted.join(", ")}]` : quoted[0]},`;
  });
  const shown = kind === "explain" ? 'reply["explanations"][0]["overlay"]' : 'reply["sheet"]';
  return `import base64
${hasKey ? "import os\n" : ""}${imports.trimStart()}
import httpx

picture = ${read}
response = httpx.post(
    ${pythonQuoted(`${base}v1/${kind}`)},
    files={"image": (${pythonQuoted(picture.name)}, picture)},
    data={
${entries.join("\n")}
    },${hasKey ? `\n    headers={"Authorization": f"Bearer {os.environ['${KEY}']}"},` : ""}
    timeout=150,
)
if response.is_error:
    raise SystemExit(response.text)
reply = response.json()
for explanation in reply["explanations"]:
    print(explanation["target"]["label"], explanation["method"], explanation["utility"], explanation["metrics"])
with open("${PICTURES[kind]}", "wb") as file:
    file.write(base64.b64decode(${shown}["b64"]))
`;
}
