// dimmer sim: machine files booted and printed, and refused.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { printSrat, type SratEntry } from '../../src/kernfs/srat.ts';
import { ROOT, textOf } from '../support/source-files.ts';
import { type Ran, runCli, scratchDirectory } from './run-cli.ts';

const example = (name: string): string => join(ROOT, `docs/guide/machines/${name}.yaml`);

/** The scratch directory is the only part of a message that differs from run to run. */
function sim(files: Readonly<Record<string, string | Uint8Array>>, ...more: string[]): Ran {
  const directory = scratchDirectory();
  for (const [name, data] of Object.entries(files)) writeFileSync(join(directory, name), data);
  const argv = more.map((word) => (word in files ? join(directory, word) : word));
  const ran = runCli(['sim', join(directory, 'machine.yaml'), ...argv]);
  return { ...ran, err: ran.err.replaceAll(`${directory}/`, '') };
}

describe('dimmer sim', () => {
  it.each([
    ['two-nodes', {}],
    ['pools', {}],
    ['hot-pluggable-node', { env: { COLUMNS: '80' } }],
  ] as const)('SM1 %s', async (name, io) => {
    const { code, out, err } = runCli(['sim', example(name)], io);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    await expect(out).toMatchFileSnapshot(`../golden/cli/sim-${name}.txt`);
  });

  it('SM2 words of the command line are told apart: ignored, obeyed under another name, unknown', () => {
    const line = 'kernelcore=lots movablecore=acpi quiet crashkernel=1G -- 3';
    const { code, out } = sim({ 'machine.yaml': `ram: 1G\ncmdline: ${line}\n` });
    expect(code).toBe(0);
    expect(out).toMatch(/^Ignored: +kernelcore=lots: Linux reads this as 0/m);
    expect(out).toMatch(/^Alias: +movablecore=acpi: obeyed as movable_node/m);
    expect(out).toMatch(/^Unknown: +quiet: dimmer does not model it\n +crashkernel=1G: /m);
    expect(out).toMatch(/^Note: +movable_node: no memory is hot-pluggable at boot/m);
  });

  it('SM3 JSON is what its schema says, and says the same as the text', () => {
    const schema = JSON.parse(readFileSync(join(ROOT, 'docs/formats/sim.schema.json'), 'utf8'));
    const closed = (s: unknown): unknown =>
      Array.isArray(s)
        ? s.map(closed)
        : typeof s !== 'object' || s === null
          ? s
          : {
              ...Object.fromEntries(Object.entries(s).map(([k, v]) => [k, closed(v)])),
              ...('properties' in s ? { additionalProperties: false } : {}),
            };
    const validate = new Ajv2020({ strict: true, allErrors: true }).compile(closed(schema) as object);
    for (const name of ['two-nodes', 'hot-pluggable-node']) {
      const document = JSON.parse(runCli(['sim', example(name), '-J']).out);
      expect(validate(document), JSON.stringify(validate.errors)).toBe(true);
      expect(document).toMatchObject({ dimmer: 'sim', version: 1 });
      const text = runCli(['sim', example(name)]).out;
      for (const z of document.zones) {
        const row = [z.node, z.zone, z.startPfn, z.spannedPages, z.presentPages, z.managedPages].join(' +');
        expect(text).toMatch(new RegExp(`^ *${row}$`, 'm'));
      }
      const all = JSON.parse(runCli(['sim', example(name), '-J', '-a']).out);
      const count = document.blocks.reduce(
        (n: number, b: { firstBlock: number; lastBlock: number }) => n + b.lastBlock - b.firstBlock + 1,
        0,
      );
      expect(all.blocks.length).toBe(count);
      delete document.zones[0].startPfn;
      expect(validate(document)).toBe(false);
    }
  });

  it('SM4 a raw SRAT gives nodes and hot-pluggable ranges', () => {
    const memory = (proximity: number, base: number, length: number, hotpluggable: boolean): SratEntry => ({
      kind: 'memory',
      proximity,
      base,
      length,
      enabled: true,
      hotpluggable,
      nonVolatile: false,
    });
    const GIB = 2 ** 30;
    const srat = printSrat({
      revision: 3,
      oemId: 'TEST',
      oemTableId: 'TEST',
      oemRevision: 1,
      creatorId: 'TEST',
      creatorRevision: 1,
      entries: [memory(0, 0, 4 * GIB, false), memory(1, 4 * GIB, 4 * GIB, true)],
    });
    const file = 'cmdline: movable_node\nram:\n  - { start: 1M, end: 2G }\n  - { start: 4G, size: 2G }\n';
    const { code, out } = sim({ 'machine.yaml': file, SRAT: srat }, '--srat', 'SRAT');
    expect(code).toBe(0);
    expect(out).toMatch(/^ +1 Movable +1048576 +524288 +524288 +524288$/m);
    const cut = sim({ 'machine.yaml': file, SRAT: srat.subarray(0, 60) }, '--srat', 'SRAT');
    expect(cut).toMatchObject({ code: 2, out: '' });
    expect(cut.err).toBe('dimmer: SRAT: the table is 128 bytes long, the file ends after 60\n');
  });

  it.each([
    ['nodes:\n  - { ram: 4096 }\n', /^dimmer: machine\.yaml, line 2, nodes\[0\]\.ram: "4096" is no size: .*\n$/],
    ['', /^dimmer: machine\.yaml, line 1: the file is empty\n$/],
    ['\0\x01\xff', /^dimmer: machine\.yaml, line 1: [^\n]*\n$/],
  ])('SM5 %j is one sentence and exit 2', (text, sentence) => {
    const { code, out, err } = sim({ 'machine.yaml': text });
    expect({ code, out }).toEqual({ code: 2, out: '' });
    expect(err).toMatch(sentence);
  });

  it('SM5 so are a file that is not there, a directory, and no file at all', () => {
    expect(runCli(['sim', '/nonexistent.yaml'])).toEqual({
      code: 2,
      out: '',
      err: 'dimmer: /nonexistent.yaml: there is no such file\n',
    });
    expect(runCli(['sim', ROOT]).err).toMatch(/: is a directory\n$/);
    expect(runCli(['sim']).code).toBe(2);
    expect(sim({ 'machine.yaml': 'ram: 1G' }, '--srat', '/nonexistent')).toMatchObject({ code: 2, out: '' });
  });

  it('SM1 the page of the format shows a file that boots, and the guide what sim prints', () => {
    const shown = /```yaml\n([\s\S]*?)```/.exec(textOf('docs/formats/machine.md'))?.[1] as string;
    expect(sim({ 'machine.yaml': shown }).code).toBe(0);
    const printed = /```text\n\$ dimmer sim [^\n]*\n([\s\S]*?)```/.exec(textOf('docs/guide/sim.md'))?.[1] as string;
    expect(printed).toBe(runCli(['sim', example('two-nodes')], { env: { COLUMNS: '100' } }).out);
  });
});
