/* global SwaggerUIBundle */
// Swagger UI's dark scheme is a class. Follow the reader's preference.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#main",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // by default it calls a server elsewhere
});
