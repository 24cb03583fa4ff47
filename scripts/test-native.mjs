// Builds the native core's own tests in a tree of their own and runs them: under AddressSanitizer and UndefinedBehaviorSanitizer,
// or what SEQMIX_SANITIZE names (`none` for a plain build). Arguments go to the test program.
import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { build } from './cmake.mjs'

const sanitize = process.env.SEQMIX_SANITIZE ?? 'address,undefined'
const tree = sanitize === 'none' ? 'test' : `test-${sanitize.replaceAll(',', '-')}`
const out = build(
  tree,
  {
    CMAKE_BUILD_TYPE: 'RelWithDebInfo',
    SEQMIX_CUDA: 'OFF',
    SEQMIX_NATIVE_TESTS: 'ON',
    SEQMIX_WERROR: sanitize === 'none' ? 'ON' : 'OFF', // under sanitizers GCC warns of what is not there
    SEQMIX_SANITIZE: sanitize === 'none' ? '' : sanitize,
  },
  'seqmix_native_tests',
)
const run = spawnSync(path.join(out, 'seqmix_native_tests'), process.argv.slice(2), {
  stdio: 'inherit',
  // On its fake stack (for use after return) GCC's AddressSanitizer aligns 64-byte vectors to 32 bytes: AVX-512 faults there.
  env: { UBSAN_OPTIONS: 'print_stacktrace=1', ASAN_OPTIONS: 'detect_stack_use_after_return=0', ...process.env },
})
if (run.error) throw run.error
if (run.signal) console.error(`the native tests ended by ${run.signal}`)
process.exit(run.status ?? 1)
