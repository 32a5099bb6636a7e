// dimmer demo: its text, its documents, and what it refuses.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
import { type DemoResult, POOL_DEMOS } from '#demo/index';
import { ROOT } from '../support/source-files.ts';
import { runCli } from './run-cli.ts';

describe('demo', () => {
  it('without a name lists the demos', async () => {
    const { code, out, err } = runCli(['demo']);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    await expect(out).toMatchFileSnapshot('../golden/cli/demo.txt');
  });

  it('rfc2018 prints the document’s trace and nothing else on stdout', async () => {
    const { code, out, err } = runCli(['demo', 'rfc2018']);
    expect(code).toBe(0);
    expect(out.split('\n').length).toBe(82); // 81 lines
    await expect(out).toMatchFileSnapshot('../golden/cli/demo-rfc2018.txt');
    await expect(err).toMatchFileSnapshot('../golden/cli/demo-rfc2018-stderr.txt');
    expect(runCli(['demo', 'rfc2018', '-q'])).toEqual({ code: 0, out, err: '' });
  });

  it('gigantic prints the table', async () => {
    const { code, out, err } = runCli(['demo', 'gigantic']);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    await expect(out).toMatchFileSnapshot('../golden/cli/demo-gigantic.txt');
  });

  it.each(['rfc2018', 'gigantic'])('%s --json is what its schema says', (name) => {
    const schema = JSON.parse(readFileSync(join(ROOT, `docs/formats/demo-${name}.schema.json`), 'utf8')) as object;
    const validate = new Ajv2020({ strict: true, allErrors: true }).compile(schema);
    const { code, out, err } = runCli(['demo', name, '--json']);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    const document = JSON.parse(out);
    expect(validate(document), JSON.stringify(validate.errors)).toBe(true);
    const named = (schema as { properties: object }).properties;
    expect(Object.keys(document).sort()).toEqual(Object.keys(named).sort());
  });

  it.each(['rfc', 'constructor'])('%s is no demo: usage error that names those there are', (name) => {
    expect(runCli(['demo', name])).toEqual({
      code: 2,
      out: '',
      err: `dimmer: demo knows rfc2018, gigantic, ingo, defrag, pools, not "${name}"\n`,
    });
  });

  describe('ingo', () => {
    const args = ['demo', 'ingo', '--size', '4G', '--seed', '1'];
    const text = runCli(args, { env: {} });

    it('prints the table, the sums, and nothing on stderr; all goes that should', async () => {
      expect({ code: text.code, err: text.err }).toEqual({ code: 0, err: '' });
      await expect(text.out).toMatchFileSnapshot('../golden/cli/demo-ingo.txt');
    });

    it('--json says the same in the shape of its schema', () => {
      const schema = JSON.parse(readFileSync(join(ROOT, 'docs/formats/demo-ingo.schema.json'), 'utf8')) as object;
      const validate = new Ajv2020({ strict: true, allErrors: true }).compile(schema);
      const { code, out, err } = runCli([...args, '--json']);
      expect({ code, err }).toEqual({ code: 0, err: '' });
      const document = JSON.parse(out);
      expect(validate(document), JSON.stringify(validate.errors)).toBe(true);
      const named = (schema as { properties: object }).properties;
      expect(Object.keys(document).sort()).toEqual(Object.keys(named).sort());
      expect(text.out).toContain(`Linux removes ${document.sums.removed.linux} of ${document.sums.dimms} DIMMs`);
    });

    it.each([
      [['--seeds', '0'], '--seeds takes 1 to 999999, not "0"'],
      [['--size', '1G'], '--size takes multiples of 4G, not "1G"'],
      [['--size', '8'], '--size takes multiples of 4G, not "8"'],
    ])('%j is a usage error', (more, sentence) => {
      expect(runCli(['demo', 'ingo', ...more])).toEqual({ code: 2, out: '', err: `dimmer: ${sentence}\n` });
    });

    it('--seeds and --size are for no other demo', () => {
      expect(runCli(['demo', 'gigantic', '--size', '4G']).err).toBe('dimmer: --seeds and --size are for demo ingo\n');
    });
  });

  describe('pools', () => {
    const schema = JSON.parse(readFileSync(join(ROOT, 'docs/formats/demo-pools.schema.json'), 'utf8')) as object;
    const validate = new Ajv2020({
      strict: true,
      allErrors: true,
      allowUnionTypes: true,
      strictRequired: false,
    }).compile(schema);

    it('lists the demos of pools, each with the words of the mail', () => {
      const { code, out, err } = runCli(['demo', 'pools'], { env: {} });
      expect({ code, err }).toEqual({ code: 0, err: '' });
      for (const d of POOL_DEMOS) expect(out).toContain(`pools/${d.name} `);
      expect(out.split('\n').length).toBe(POOL_DEMOS.length + 2);
      const list = JSON.parse(runCli(['demo', 'pools', '--json']).out);
      expect(validate(list), JSON.stringify(validate.errors)).toBe(true);
      expect(list.demos.length).toBe(POOL_DEMOS.length);
    });

    it.each(POOL_DEMOS.map((d) => d.name))(
      'pools/%s prints its words and figures; a second run, with --json, says the same in the shape of its schema',
      async (name) => {
        const { code, out, err } = runCli(['demo', `pools/${name}`]);
        expect({ code, err }).toEqual({ code: 0, err: '' });
        await expect(out).toMatchFileSnapshot(`../golden/cli/demo-pools-${name}.txt`);
        const document = JSON.parse(runCli(['demo', `pools/${name}`, '--json']).out);
        expect(validate(document), JSON.stringify(validate.errors)).toBe(true);
        const named = Object.keys((schema as { properties: object }).properties).filter((k) => k !== 'demos');
        expect(Object.keys(document).sort()).toEqual(named.sort());
        const { title, lines, table } = document as DemoResult;
        for (const line of [title, ...lines]) {
          expect(line).not.toContain('\n');
          expect(out).toContain(`${line}\n`);
        }
        const printed = out.trimEnd().split('\n').slice(-table.rows.length);
        for (const [k, row] of table.rows.entries()) {
          expect(row.length).toBe(table.columns.length);
          for (const cell of row) expect(printed[k]).toContain(String(cell));
        }
      },
    );

    it('--seed is another chance; nonsense and demos without chance refuse it', () => {
      const facts = (seed: string): unknown =>
        JSON.parse(runCli(['demo', 'pools/embedded', '--json', '--seed', seed]).out).facts;
      expect(facts('1')).not.toEqual(facts('2'));
      expect(runCli(['demo', 'pools/embedded', '--seed', '-1']).code).toBe(2);
      expect(runCli(['demo', 'pools/embedded', '--seed', '1e3']).err).toBe(
        'dimmer: --seed takes 0 to 4294967295, not "1e3"\n',
      );
      expect(runCli(['demo', 'rfc2018', '--seed', '1']).err).toBe('dimmer: demo rfc2018 leaves nothing to chance\n');
    });

    it('a name that is none: the names there are', () => {
      const { code, err } = runCli(['demo', 'pools/none']);
      expect(code).toBe(2);
      expect(err).toMatch(/^dimmer: demo pools knows (.*, )?embedded(, .*)?, not "none"\n$/);
    });
  });
});
