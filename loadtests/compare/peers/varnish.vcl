vcl 4.1;
// Varnish as it comes: its built-in rules decide what is cached. Storage and threads are in the command line.
backend origin {{
  .host = "127.0.0.1";
  .port = "{origin}";
}}
