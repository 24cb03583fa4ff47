# CMakeLists.txt is the one build description. This file only lets node-gyp and prebuildify call it; it is not published.
{
  "targets": [
    {
      "target_name": "seqmix",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(module_root_dir)/build/Release/seqmix.node"],
          "action": ["node", "<(module_root_dir)/scripts/build-native.mjs"],
        }
      ],
    }
  ]
}
