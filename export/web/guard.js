// Plain script, no module: it also runs where modules do not, and says what is missing.
(function () {
  "use strict";

  function refuse(title, advice) {
    document.addEventListener("DOMContentLoaded", function () {
      document.documentElement.dataset.state = "error";
      document.getElementById("error-title").textContent = title;
      document.getElementById("error-advice").textContent = advice;
      document.getElementById("error").hidden = false;
    });
    window.seqrecRefused = true;
  }

  // The smallest module with a 128-bit instruction; validates where SIMD is known.
  var simd = new Uint8Array([
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253,
    15, 253, 98, 11,
  ]);
  if (location.protocol === "file:") {
    refuse(
      "This page has to be served",
      "Browsers run no model from a file. In the folder of this page type: python -m http.server 8000" +
        " and open http://localhost:8000",
    );
  } else if (typeof WebAssembly !== "object") {
    refuse(
      "This browser has no WebAssembly",
      "The model runs in it. Another browser has it, or this one does once its settings allow it" +
        " (some switch it off in a lockdown or strict mode).",
    );
  } else if (!WebAssembly.validate(simd) || typeof DecompressionStream !== "function") {
    refuse(
      "This browser is too old",
      "The page needs WebAssembly with SIMD and DecompressionStream: Chrome 91, Firefox 113," +
        " Safari 16.4, or newer.",
    );
  }
})();
