// JSON documents: {"dimmer": KIND, "version": N, ...}. docs/formats/json.md describes them, KIND.schema.json defines them.
//
// A figure that is not known is absent, never null. Sizes are bytes, addresses numbers of bytes, times milliseconds.
// A change that could break a reader raises the version of that kind; a new property does not.

export const JSON_VERSIONS = Object.freeze({
  apply: 1,
  check: 1,
  doctor: 1,
  explain: 1,
  'ls-blocks': 1,
  'ls-zones': 1,
  'ls-nodes': 1,
  'ls-dimms': 1,
  'ls-pools': 1,
  map: 1,
  plan: 1,
  'plan-remove': 1,
  pool: 1,
  sim: 1,
  verify: 1,
});
export type JsonKind = keyof typeof JSON_VERSIONS;

export const formatJson = (kind: JsonKind, body: object): string =>
  `${JSON.stringify({ dimmer: kind, version: JSON_VERSIONS[kind], ...body }, undefined, 2)}\n`;
