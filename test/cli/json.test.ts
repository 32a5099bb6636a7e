// JSON documents: each validates against its published schema, and has no property that the schema does not name.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { JSON_VERSIONS, type JsonKind } from '../../src/cli/json.ts';
import { ROOT } from '../support/source-files.ts';
import { BUSY_DIMM, DEMO, runCli, unpacked } from './run-cli.ts';
import { closed } from './schema.ts';

/** Kinds that tell of a machine that exists; `apply`, `pool` and `sim` have tests of their own. */
const COMMANDS: Readonly<Record<Exclude<JsonKind, 'apply' | 'pool' | 'sim'>, readonly (readonly string[])[]>> = {
  check: [['check'], ['check', 'size:512M'], ['check', '-a', 'node:0'], ['check', 'block:0']],
  explain: [
    ['explain', 'node:0'],
    ['explain', 'node:1'],
  ],
  'ls-blocks': [
    ['ls', 'blocks'],
    ['ls', 'blocks', '-o', '+VERDICT'],
  ],
  'ls-zones': [['ls', 'zones']],
  'ls-nodes': [['ls', 'nodes']],
  'ls-dimms': [['ls', 'dimms']],
  'ls-pools': [['ls', 'pools']],
  plan: [
    ['plan', 'remove', 'size:256M'],
    ['plan', 'remove', 'node:1', '--force'],
  ],
  'plan-remove': [
    ['plan', 'remove', 'node:0', '--with', 'all'],
    ['plan', 'remove', 'all', '--with', 'remap'],
  ],
  doctor: [['doctor'], ['doctor', '--need', '5000']],
  map: [['map']],
  verify: [['verify']],
};

const schemaOf = (kind: string): object =>
  JSON.parse(readFileSync(join(ROOT, `docs/formats/${kind}.schema.json`), 'utf8')) as object;

describe('JSON', () => {
  for (const [kind, commands] of Object.entries(COMMANDS)) {
    it(`Q12 ${kind} is what its schema says`, () => {
      const validate = new Ajv2020({ strict: true, allErrors: true }).compile(closed(schemaOf(kind)) as object);
      const sources = [
        ['--from', DEMO],
        ['--from', BUSY_DIMM],
        ...(kind === 'map' || kind === 'plan-remove' ? [] : [['--sysroot', unpacked(BUSY_DIMM, { pages: false })]]),
      ];
      for (const argv of commands) {
        for (const source of sources) {
          const ran = runCli([...argv, '--json', '-q', ...source]);
          const said = `${argv.join(' ')} ${source[0]}: ${ran.err}`;
          expect([0, 3, 4], said).toContain(ran.code);
          const document = JSON.parse(ran.out);
          expect(validate(document), `${said} ${JSON.stringify(validate.errors?.slice(0, 3))}`).toBe(true);
          expect(document.version).toBe(JSON_VERSIONS[kind as JsonKind]);
        }
      }
    });
  }

  it('Q12 a schema rejects a document with a property missing', () => {
    const validate = new Ajv2020().compile(schemaOf('check'));
    const document = JSON.parse(runCli(['check', '--json', '-q', '--from', DEMO]).out);
    expect(validate(document)).toBe(true);
    delete document.rows[0].reason;
    expect(validate(document)).toBe(false);
  });

  it('Q12 says the same as the text', () => {
    const document = JSON.parse(runCli(['check', '--json', '-q', '--from', DEMO]).out);
    const raw = runCli(['check', '-r', '-n', '-b', '-q', '-o', 'BLOCK,VERDICT,BLOCKING', '--from', DEMO]).out;
    const lines = document.rows.map(
      (r: { firstBlock: number; lastBlock: number; verdict: string; blockingPages: number }) =>
        `${r.firstBlock === r.lastBlock ? r.firstBlock : `${r.firstBlock}-${r.lastBlock}`} ${r.verdict} ${r.blockingPages}\n`,
    );
    expect(raw).toBe(lines.join(''));
  });
});
