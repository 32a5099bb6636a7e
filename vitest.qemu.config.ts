// The lane of real kernels: npm run test:qemu. Two guests at most at a time; each scenario file boots its own.

import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: { conditions: ['dimmer-src'] },
  ssr: { resolve: { conditions: ['dimmer-src'] } },
  test: {
    include: ['test/qemu/*.qemu.ts'],
    globalSetup: ['test/qemu/global-setup.ts'],
    env: { TZ: 'UTC', LC_ALL: 'C', NO_COLOR: '1' },
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 180_000,
    hookTimeout: 180_000,
    disableConsoleIntercept: true,
  },
});
