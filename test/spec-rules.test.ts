// Rules and tests: every numbered rule of docs/spec is cited by the name of a test, and every rule that a test's name
// cites is written there.
//
//   a rule      "- **FA3** Order 9 to 10 merges ..." in docs/spec/*.md
//   a citation  the ids at the start of a test's name: it('O2 O3 all of its frames ...'), describe('FA1 alloc')

import { describe, expect, it } from 'vitest';
import { repositoryFiles, textOf } from './support/source-files.ts';

const ID = /[A-Z]{1,3}\d{1,3}/;
const files = repositoryFiles();
const pages = files.filter((f) => f.startsWith('docs/spec/') && f.endsWith('.md'));
const tests = files.filter((f) => /\.(test|fuzz|cases)\.ts$/.test(f));

/** Where each rule is written. */
const rules = new Map<string, string[]>();
for (const page of pages) {
  for (const [, id] of textOf(page).matchAll(new RegExp(`^- \\*\\*(${ID.source})\\*\\* `, 'gm'))) {
    rules.set(id, [...(rules.get(id) ?? []), page]);
  }
}

/** Which tests cite it. Names may come in any quotes, with \`it.each\` and the like in between. */
const citations = new Map<string, string[]>();
for (const file of tests) {
  for (const [, name] of textOf(file).matchAll(
    /\b(?:it|test|describe)(?:\.\w+)?(?:\([^'"`]*\))?\(\s*['"`]([^'"`]*)/g,
  )) {
    for (const word of name.split(/[\s,:]+/)) {
      if (!new RegExp(`^${ID.source}$`).test(word)) break; // only the ids at the start: "O5 errno ..." cites O5
      citations.set(word, [...(citations.get(word) ?? []), file]);
    }
  }
}

describe('rules and tests', () => {
  it('finds what it is about', () => {
    expect(pages.length).toBeGreaterThan(5);
    expect(rules.size).toBeGreaterThan(60);
    expect(citations.size).toBeGreaterThan(60);
  });

  it('a rule is written once in all of docs/spec', () => {
    expect([...rules].filter(([, where]) => where.length > 1)).toEqual([]);
  });

  it('every rule is cited by the name of a test', () => {
    expect([...rules].filter(([id]) => !citations.has(id)).map(([id, where]) => `${id} of ${where.join()}`)).toEqual(
      [],
    );
  });

  it('every rule that a test cites is written', () => {
    const unknown = [...citations].filter(([id]) => !rules.has(id));
    expect(unknown.map(([id, where]) => `${id} in ${[...new Set(where)].join()}`)).toEqual([]);
  });
});
