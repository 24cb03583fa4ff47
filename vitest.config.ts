import { defineConfig } from 'vitest/config'

// What the kernels compute is tested once for every instruction set there is a build for (on a GPU, or where the
// environment names one, once); everything else once. test/support/device.ts skips what this processor cannot run.
const kernels = ['test/ops/**/*.test.ts', 'test/property/**/*.test.ts', 'test/tensor/{convert,views}.test.ts']
const chosen = process.env['SEQMIX_CPU_TARGET'] ?? process.env['SEQMIX_DEVICE']
const targets = chosen ? [] : process.arch === 'x64' ? ['scalar', 'avx2', 'avx512'] : ['scalar']

export default defineConfig({
  test: {
    globalSetup: ['test/support/fresh-addon.ts'],
    // The addon is loaded once per process and worker_threads tests make their own threads.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
    projects: [
      { extends: true, test: { name: 'all', include: ['test/**/*.test.ts'], exclude: targets.length ? kernels : [] } },
      ...targets.map((target) => ({
        extends: true as const,
        test: { name: target, include: kernels, env: { SEQMIX_CPU_TARGET: target } },
      })),
    ],
  },
})
