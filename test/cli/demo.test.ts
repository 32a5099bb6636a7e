// dimmer demo: its text, its documents, and what it refuses.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, it } from 'vitest';
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
      err: `dimmer: demo knows rfc2018, gigantic, not "${name}"\n`,
    });
  });
});
